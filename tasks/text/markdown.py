"""Markdown escaping: a text from data, settings or a conversation is shown as it is, and is never markup.

Reports are shown by Prefect's UI and by other viewers, which also take HTML inside of Markdown, and are read in a
terminal as plain text. So only characters that begin something are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_MARKUP = re.compile(r"[\\`|\[*]")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
"""Line breaks, control characters, and characters that turn the direction of writing."""


def one_line(text: object) -> str:
    """A text without line breaks and control characters, for a terminal."""
    return _BREAKS.sub(" ", str(text))


def escape(text: object) -> str:
    """A text as one line of Markdown."""
    # Not every renderer knows a backslash before `<`.
    return _MARKUP.sub(r"\\\g<0>", one_line(text)).replace("<", "&lt;")


def row(cells: Iterable[object]) -> str:
    """A row of a table, with its cells escaped."""
    return f"| {' | '.join(map(escape, cells))} |"
