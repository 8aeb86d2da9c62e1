"""Libraries that the suite uses where they are installed, and that the extra `test` does not bring."""

import os
from typing import NoReturn

import pytest


def missing(library: str, *, extra: str) -> NoReturn:
    """Skips what needs the library. CI installs every extra that it tests: there it fails."""
    remedy = f'{library} is not installed: pip install -e ".[{extra}]"'
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"CI does not skip, and {remedy}", pytrace=False)
    pytest.skip(remedy, allow_module_level=True)
