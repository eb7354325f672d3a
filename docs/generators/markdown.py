"""Markdown that GitHub and the site both show in the same way: tables, code spans, blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; empty without rows."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines]) + "\n"


def _cell(text: str) -> str:
    """One line, with the column separator escaped, which both readers undo inside code spans too."""
    return re.sub(r"\s+", " ", text).strip().replace("|", r"\|")


def code(text: object) -> str:
    """A code span."""
    return f"`{text}`"


def block(language: str, text: str) -> str:
    """A fenced block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def prose(text: str) -> str:
    """A docstring's text as it is, each paragraph on one line."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(re.sub(r"\s+", " ", one) for one in paragraphs)


def sections(*parts: str) -> str:
    """Parts of a page with one empty line between; empty parts are left out."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
