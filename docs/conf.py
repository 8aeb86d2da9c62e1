"""The documentation site: `python -m sphinx -W docs out/docs`. It needs no network, to build or to read."""

from pathlib import Path

from sphinx.application import Sphinx

import jaxbce
from docs import figures, reference  # found from the root of the repository, where `python -m` looks first

MADE = Path(__file__).parent / "_made"

project = "jaxbce"
author = "The jaxbce authors"
release = version = jaxbce.__version__
html_title = f"jaxbce {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_made"]  # written below, included by pages
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

# The docstrings say dtypes and shapes in words; `ArrayLike` spelled out would bury them.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
add_module_names = False
# "Returns" is prose here, where napoleon would take what stands before a colon for a type; and an attribute's line may
# name several.
napoleon_custom_sections = ["Domain", "Returns", ("Attributes", "params_style")]
highlight_language = "none"  # blocks without a language are formulas
default_role = "py:obj"  # a public name in a docstring is a link, any other name is code


def setup(app: Sphinx) -> None:
    """What the pages include is written before they are read."""
    app.connect("builder-inited", lambda _: figures.draw(MADE))
    app.connect("builder-inited", lambda _: reference.write(MADE / "api.md"))
