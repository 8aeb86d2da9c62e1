"""What a package index shows is the README without its relative links, which lead nowhere there."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

IMAGE = re.compile(r"!\[[^]]*\]\((?!https?://)[^)]*\)\n+")
LINK = re.compile(r"\[([^]]*)\]\((?!https?://|#)[^) ]*\)")


class Readme(MetadataHookInterface):
    """Puts the description into the metadata of the wheel and of the source distribution."""

    def update(self, metadata: dict[str, object]) -> None:
        """A link keeps its words; an image goes."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": LINK.sub(r"\1", IMAGE.sub("", text))}
