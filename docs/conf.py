"""How Sphinx makes a site of these pages: scripts/docs."""

from __future__ import annotations

import re

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "Ailurus"
html_title = "Ailurus"
author = "The Ailurus developers"
extensions = ["myst_parser"]
# Headings are linked to by name, as other readers of Markdown have it.
myst_heading_anchors = 4
html_theme = "furo"
html_show_copyright = False
html_show_sphinx = False
exclude_patterns = ["conf.py"]
# Page, name, summary, authors, section.
man_pages = [
    (
        "reference/dispatcher",
        "dispatcher",
        "hold a queue of jobs, submit to it and look at it",
        [],
        1,
    ),
    ("reference/harvester-edge", "harvester-edge", "start pilots through a batch system", [], 1),
    ("reference/pilot", "pilot", "run jobs of a dispatcher on a node", [], 1),
]
# To files of the tree, which the site has not.
_OUT = re.compile(r"\[([^]]+)\]\(\.\./(?!README\.md)[^)]+\)")


def setup(app: Sphinx) -> None:
    app.connect("source-read", _leave_out)
    # Drawn by who reads the files on a forge; here it is text.
    app.add_lexer("mermaid", TextLexer)


def _leave_out(app: Sphinx, page: str, source: list[str]) -> None:
    del app
    if not page.startswith("decisions/"):
        source[0] = _OUT.sub(r"\1", source[0])
