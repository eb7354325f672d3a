"""Hook of mkdocs: a page that consists of `--8<-- "NAME.md"` shows that file of the repository's root.

The root's files are written for GitHub, so their links begin there: a link below `docs/`, or to a root file that has
a page, becomes the page's; any other link to a file of the repository becomes its text, as the site has no such file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

INCLUDE = re.compile(r'^--8<-- "([\w.-]+)"$', re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""The root's files that have a page, which lies at the top of `docs/`."""


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Called by mkdocs for each page's text."""
    root = Path(config["config_file_path"]).parent
    return INCLUDE.sub(lambda match: included(root, match[1]), markdown)


def included(root: Path, name: str) -> str:
    """The text of a file of the root, with links that work at the top of the site."""
    return LINK.sub(lambda link: _link(root, *link.groups()), (root / name).read_text(encoding="utf-8"))


def _link(root: Path, text: str, target: str, anchor: str | None) -> str:
    path = PAGES.get(target, target.removeprefix("docs/"))
    if (root / "docs" / path).is_file():
        return f"[{text}]({path}{anchor or ''})"
    return text
