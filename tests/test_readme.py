"""The README's Python blocks run, one after another, and print what it says they print."""

import contextlib
import io
import pathlib
import re

import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) >= 3


def test_blocks_run_and_print_what_their_comments_say():
    """A line that ends in `# → text` prints that text."""
    names: dict[str, object] = {}
    for block in BLOCKS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "README.md", "exec"), names)
        promised = re.findall(r"^print\(.*# → (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == promised


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?://|#)([^)#]+)", README))))
def test_links_lead_somewhere(link):
    assert (pathlib.Path(__file__).parent.parent / link).exists()
