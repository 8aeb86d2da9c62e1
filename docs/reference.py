"""The API page, from the public names: by family, in the order of the package docstring."""

import inspect
import re
from pathlib import Path

import jaxbce


def families() -> dict[str, list[str]]:
    """The public names under the headings that the package docstring has them under; the rest under one of their own."""
    public = [name for name in vars(jaxbce) if not name.startswith("_")]
    menu = inspect.getdoc(jaxbce).partition("\nAll losses are ")[0]
    found = {}
    for heading, lines in re.findall(r"^(\S.*)\n((?: {4}.*\n?)+)", menu, re.MULTILINE):
        # A name is listed before the colon of its line; what follows describes it.
        listed = [
            name for line in lines.splitlines() for name in re.findall(r"`(\w+)`", re.split(r":(?: |$)", line)[0])
        ]
        found[heading] = [name for name in listed if name in public and name not in sum(found.values(), [])]
    found["More"] = [name for name in public if name not in sum(found.values(), [])]
    return {heading: names for heading, names in found.items() if names}


def write(path: Path) -> None:
    """Write the page's list: a heading per family, and a directive per name."""
    lines = []
    for heading, names in families().items():
        lines += [f"## {heading}", ""]
        for name in names:
            kind, options = "autofunction", []
            if inspect.isclass(getattr(jaxbce, name)):
                kind, options = "autoclass", [":members:", ":special-members: __call__"]
            lines += ["```{eval-rst}", f".. {kind}:: jaxbce.{name}", *(f"   {option}" for option in options), "```", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
