"""The API page, from the public names: by family, in the order of the package docstring."""

import inspect
import re
from pathlib import Path

import jaxbce


def families() -> dict[str, list[str]]:
    """The public names under their headings in the package docstring; those that it leaves out stand under "More"."""
    rest = [name for name in vars(jaxbce) if not name.startswith("_")]
    menu = inspect.getdoc(jaxbce).partition("\nAll losses are ")[0]
    found: dict[str, list[str]] = {}
    for heading, lines in re.findall(r"^(\S.*)\n((?: {4}.*\n?)+)", menu, re.MULTILINE):
        # What stands before the colon of a line is listed, what follows describes it.
        listed = re.findall(r"`(\w+)`", re.sub(r":(?: .*)?$", "", lines, flags=re.MULTILINE))
        found[heading] = [name for name in listed if name in rest]
        rest = [name for name in rest if name not in listed]
    found["More"] = rest
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
