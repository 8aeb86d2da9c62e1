"""The documentation site: its JavaScript computes what jaxbce does, its API page has every public name. All prose
is wrapped at one width."""

import functools
import html
import itertools
import json
import pathlib
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbce
from docs import reference

DOCS = pathlib.Path(reference.__file__).parent
PROSE = [*(DOCS.parent / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")), *sorted(DOCS.glob("*.md"))]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

LOGITS = [-700.0, -40.0, -17.3, -6.0, -2.5, -0.3, 0.0, 0.4, 1.0, 3.7, 9.0, 21.0, 39.0, 700.0]
LABELS = [0.0, 0.3, 1.0]
GRIDS = {
    "binary_cross_entropy_with_logits": {"pos_weight": [0.1, 1.0, 7.5], "label_smoothing": [0.0, 0.2, 1.0]},
    "sigmoid_focal_loss": {"gamma": [0.0, 0.5, 2.0, 5.0], "alpha": [None, 0.0, 0.25], "label_smoothing": [0.0, 0.2]},
    "asymmetric_loss": {
        "gamma_pos": [0.0, 1.0],
        "gamma_neg": [0.0, 1.5, 4.0],
        "margin": [0.0, 0.05, 0.5],
        "label_smoothing": [0.0, 0.2],
    },
}
CASES = [
    (name, dict(zip(grid, values, strict=True)))
    for name, grid in GRIDS.items()
    for values in itertools.product(*grid.values())
]


def camel(name):
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def evaluated(program, folder):
    """What a JavaScript expression over `losses` is, in Node or else in a browser without a window."""
    source = (DOCS / "_static" / "losses.js").read_text(encoding="utf-8")
    if node := shutil.which("node"):
        command = [node, "--input-type=commonjs", "--eval", f"{source}; console.log(JSON.stringify({program}))"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if not (browser := next(filter(None, map(shutil.which, BROWSERS)), None)):
        pytest.skip(f"no JavaScript: neither node nor one of {', '.join(BROWSERS)} is installed")
    page = folder / "page.html"
    script = f"{source}; document.body.textContent = JSON.stringify({program})"
    page.write_text(f"<!doctype html><meta charset=utf-8><body><script>{script}</script>", encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True)
    return json.loads(html.unescape(re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)[1]))


def loss_and_slope(name):
    """A loss of jaxbce of each entry, with its gradient, compiled once for all values of its options."""
    loss = getattr(jaxbce, name)
    slope = jax.grad(functools.partial(loss, reduction="sum"))
    return jax.jit(lambda x, y, options: (loss(x, y, reduction="none", **options), slope(x, y, **options)))


def test_playground_javascript_agrees_with_jaxbce(tmp_path):
    calls = [[camel(name), {camel(k): v for k, v in options.items()}] for name, options in CASES]
    got = evaluated(
        f"{json.dumps(calls)}.map(([name, options]) => {json.dumps(LABELS)}.map((y) => {json.dumps(LOGITS)}.map((x) =>"
        " { const { loss, gradient } = losses[name](x, y, options); return [loss, gradient]; })))",
        tmp_path,
    )
    compiled = {name: loss_and_slope(name) for name in GRIDS}
    logits, labels = np.meshgrid(LOGITS, LABELS)
    for (name, options), answer in zip(CASES, got, strict=True):
        options = {k: v if v is None else jnp.float64(v) for k, v in options.items()}
        expected = np.stack(compiled[name](logits, labels, options), axis=-1)
        where = f"{name} {options}"
        np.testing.assert_allclose(np.array(answer, float), expected, rtol=1e-6, atol=1e-300, err_msg=where)


def test_playground_controls_match_its_scripts():
    """What the script looks for is on the page, and every loss that it offers is one of jaxbce with these options."""
    page = (DOCS / "playground.md").read_text(encoding="utf-8")
    script = (DOCS / "_static" / "playground.js").read_text(encoding="utf-8")
    offered = re.findall(r"<option>(\w+)</option>", page)
    assert offered == list(GRIDS)
    assert {camel(option) for grid in GRIDS.values() for option in grid} == set(
        re.findall(r'data-option="(\w+)"', page)
    )
    for name in offered:
        (options,) = re.findall(rf"{name}: {{ of: losses\.{camel(name)}, options: (\[.*?\]) }}", script)
        assert json.loads(options) == [camel(option) for option in GRIDS[name]]


def test_pages_fetch_nothing_from_the_network():
    for path in [*DOCS.glob("*.md"), *(DOCS / "_static").iterdir()]:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(|@import|fetch\(""", text), path.name


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_prose_is_wrapped_at_120_columns(path):
    """At 120 columns: all but code, rows of tables, and what has no place to break."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    whole = re.compile(r"\||\s*(- )?(\S+|\[[^]]*\]\(\S*\)\S*)$")
    assert not [line for line in text.splitlines() if len(line) > 120 and not whole.match(line)]


def test_api_page_lists_every_public_name():
    public = {name for name in vars(jaxbce) if not name.startswith("_")}
    listed = [name for names in reference.families().values() for name in names]
    assert sorted(listed) == sorted(public)
    assert next(iter(reference.families())) == "Two classes, or many labels that are on or off independently"
