"""The README and the pages of docs/: their Python blocks run, their links lead somewhere."""

import ast
import contextlib
import importlib.util
import io
import pathlib
import re

import pytest

from tests import extras
from tests.settings import DEFAULTS, configured

pytestmark = [pytest.mark.slow, pytest.mark.cpu]  # whose figures are printed

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
RECIPES, DIFFERENCES = (ROOT / "docs" / f"{name}.md" for name in ("recipes", "differences"))
LINKS = [(path, link) for path, text in PAGES.items() for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text)]


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


# A page is one program: its blocks share their names. A recipe is one by itself, after the lines that come before all.
BEGINNING, *SECTIONS = re.split(r"^## ", PAGES[RECIPES], flags=re.MULTILINE)
PROGRAMS = {path.name: blocks(text) for path, text in PAGES.items() if path != RECIPES and blocks(text)}
STANDING_ALONE = {section.partition("\n")[0]: blocks(BEGINNING + section) for section in SECTIONS}


def run(program):
    """Where a line ends in `# → text`, that text is printed."""
    names: dict[str, object] = {}
    for block in program:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), configured(**DEFAULTS):
            exec(compile(block, "block", "exec"), names)
        promised = re.findall(r"# → (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == promised


@pytest.mark.parametrize("page", PROGRAMS)
def test_python_blocks_print_what_their_comments_say(page):
    run(PROGRAMS[page])


@pytest.mark.parametrize("recipe", STANDING_ALONE)
def test_recipes_print_what_their_comments_say(recipe):
    for library in libraries(STANDING_ALONE[recipe]):
        if importlib.util.find_spec(library) is None:
            extras.missing(library, extra="recipes")
    run(STANDING_ALONE[recipe])


def libraries(program):
    """The packages that a program imports."""
    for node in ast.walk(ast.parse("".join(program))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def test_pages_have_python_blocks():
    assert set(PROGRAMS) >= {"README.md", "index.md", "which_loss.md", "migration.md"}
    assert len(PROGRAMS["README.md"]) >= 3
    assert len(STANDING_ALONE) >= 10
    for program in STANDING_ALONE.values():
        assert len(program) >= 2  # the lines before all, and lines of its own
        assert "# → " in program[-1]
    imported = {library for program in STANDING_ALONE.values() for library in libraries(program)}
    assert imported >= {"equinox", "flax", "jax", "jaxbce", "keras", "optax", "orbax"}


@pytest.mark.parametrize(("path", "link"), sorted(set(LINKS)), ids=lambda part: getattr(part, "name", part))
def test_relative_links_exist(path, link):
    assert (path.parent / link).exists()


def test_readme_quotes_rows_of_the_differences_from_pytorch():
    """Without the calls, and to four digits."""

    def rows(text):
        return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]

    def rounded(answer):
        return re.sub(r"-?\d[\d.]*(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", answer)

    page = [
        [what, rounded(pytorch), rounded(jaxbce), why] for what, _, pytorch, jaxbce, why in rows(PAGES[DIFFERENCES])
    ]
    readme = PAGES[ROOT / "README.md"]
    quoted = rows(readme[readme.index("### Deliberate differences from PyTorch") : readme.index("## Accuracy")])
    assert len(quoted) == 5
    assert all(row in page for row in quoted)
