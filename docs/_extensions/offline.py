"""A page that would load anything from the network is a warning, hence an error: the documentation is whole on a machine without one."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\s(?:src|srcset|data)=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|icon|shortcut))[^>]*?\shref=["']?((?:https?:)?//[^"'\s>]+)""",
    re.IGNORECASE,
)
IMPORTS = re.compile(r"""(?:@import\s+(?:url\()?|url\()\s*["']?((?:https?:)?//[^"')\s]+)""")

logger = logging.getLogger(__name__)


def loads(text: str, suffix: str) -> list[str]:
    """Return the addresses that a page or a style sheet would load from."""
    if suffix == ".css":
        return [match.group(1) for match in IMPORTS.finditer(text)]
    return [match.group(1) or match.group(2) for match in LOADS.finditer(text)]


def look(app: Sphinx, error: Exception | None) -> None:
    """Look through what was built."""
    if error is not None or app.builder.format != "html":
        return
    root = Path(app.outdir)
    for path in sorted([*root.rglob("*.html"), *root.rglob("*.css")]):
        for address in loads(path.read_text(encoding="utf-8"), path.suffix):
            logger.warning("%s loads %s", path.relative_to(root), address, type="offline")


def setup(app: Sphinx) -> dict[str, bool]:
    """Look when all is built."""
    app.connect("build-finished", look)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
