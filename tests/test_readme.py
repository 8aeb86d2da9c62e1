"""The README: its Python blocks run, its links lead somewhere, its table of differences is the one that is tested."""

import contextlib
import io
import pathlib
import re

import pytest

from tests.parity.differences import DIFFERENCES, Refusal
from tests.settings import DEFAULTS, configured

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_blocks_run_and_print_what_their_comments_say():
    """Where a line ends in `# → text`, that text is printed."""
    assert len(BLOCKS) >= 3
    names: dict[str, object] = {}
    for block in BLOCKS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), configured(**DEFAULTS):
            exec(compile(block, "README.md", "exec"), names)
        promised = re.findall(r"# → (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == promised


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?://|#)([^)#]+)", README))))
def test_links_lead_somewhere(link):
    assert (pathlib.Path(__file__).parent.parent / link).exists()


def row(difference):
    """The row of the README's table that tells of a difference."""

    def answer(value):
        if isinstance(value, Refusal):
            return value.error.__name__
        return value if isinstance(value, str) else ", ".join(f"{number:.4g}" for number in value)

    return f"| {difference.name} | {answer(difference.torch)} | {answer(difference.jaxbce)} | {difference.why} |"


def test_the_differences_from_pytorch_are_those_that_are_tested():
    section = README[README.index("### Deliberate differences from PyTorch") : README.index("## Accuracy")]
    assert [line for line in section.splitlines() if line.startswith("| ")][1:] == [row(d) for d in DIFFERENCES]
