"""The README and the pages of docs/: their Python blocks run, their links lead somewhere, the table of differences from
PyTorch is the one that is tested."""

import contextlib
import io
import pathlib
import re

import pytest

from tests.parity.differences import DIFFERENCES, Refusal
from tests.settings import DEFAULTS, configured

pytestmark = pytest.mark.cpu  # whose figures are printed

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
BLOCKS = {path: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for path, text in PAGES.items()}
LINKS = [(path, link) for path, text in PAGES.items() for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text)]


@pytest.mark.parametrize("path", [path for path in PAGES if BLOCKS[path]], ids=lambda path: path.name)
def test_blocks_run_and_print_what_their_comments_say(path):
    """Where a line ends in `# → text`, that text is printed. The blocks of a page share their names."""
    names: dict[str, object] = {}
    for block in BLOCKS[path]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), configured(**DEFAULTS):
            exec(compile(block, path.name, "exec"), names)
        promised = re.findall(r"# → (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == promised


def test_the_pages_have_blocks():
    assert {path.name for path in PAGES if BLOCKS[path]} >= {"README.md", "index.md", "which_loss.md", "migration.md"}
    assert len(BLOCKS[ROOT / "README.md"]) >= 3


@pytest.mark.parametrize(("path", "link"), sorted(set(LINKS)), ids=lambda part: getattr(part, "name", part))
def test_links_lead_somewhere(path, link):
    assert (path.parent / link).exists()


def row(difference):
    """The row of the table that tells of a difference."""

    def answer(value):
        if isinstance(value, Refusal):
            return value.error.__name__
        return value if isinstance(value, str) else ", ".join(f"{number:.4g}" for number in value)

    return f"| {difference.name} | {answer(difference.torch)} | {answer(difference.jaxbce)} | {difference.why} |"


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ")][1:]


def test_the_differences_from_pytorch_are_those_that_are_tested():
    assert rows(PAGES[ROOT / "docs" / "differences.md"]) == [row(d) for d in DIFFERENCES]


def test_the_readme_quotes_the_differences():
    readme = PAGES[ROOT / "README.md"]
    quoted = rows(readme[readme.index("### Deliberate differences from PyTorch") : readme.index("## Accuracy")])
    assert len(quoted) == 5
    assert set(quoted) <= {row(d) for d in DIFFERENCES}
