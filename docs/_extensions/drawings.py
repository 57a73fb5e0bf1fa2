"""The directive ``{drawing} name``: docs/drawings/name.svg inside of the page, where its colours follow the theme."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Drawing(SphinxDirective):
    """A drawing with what stands under it."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a figure; a drawing that is not there is an error of the page."""
        path = Path(self.env.srcdir) / "drawings" / f"{self.arguments[0]}.svg"
        if not path.is_file():
            raise self.error(f"no drawing {self.arguments[0]!r}: {path} is not there")
        self.env.note_dependency(str(path))
        text = re.sub(r"<\?.*?\?>\s*", "", path.read_text(encoding="utf-8"))  # what a file of its own needs
        figure = nodes.figure(classes=["drawing"])
        figure += nodes.raw("", f'<div class="drawing-scroll">{text}</div>', format="html")
        if self.content:
            caption = nodes.caption("", "")
            for node in self.parse_content_to_nodes():
                caption += node.children
            figure += caption
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the directive."""
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
