"""Read a Markdown page: its fenced blocks, its code spans, and the commands of its terminal sessions.

A `console` block is a terminal session: a line that begins with `$ ` is a command, the lines below it are
the output that the page shows. A block with a `title` other than a terminal's is a file of that name, or,
for an existing YAML file, the keys to change in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<kind>[\w+-]*)(?P<rest>[^`\n]*)$")
_TITLE = re.compile(r'title="(?P<title>[^"]+)"')
_SPAN = re.compile(r"(?<!`)`(?P<code>[^`\n]+)`(?!`)")
_PROMPT = "$ "
TERMINAL = "terminal"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    """The language of the fence, such as `console`; empty without one."""
    title: str
    """The title of the fence; empty without one."""
    text: str
    """The content, without the indentation of the fence."""
    line: int
    """The line of the fence, from 1."""


@dataclass(frozen=True)
class Command:
    """A command of a terminal session with the output that the page shows below it."""

    text: str
    """The command; a continuation by a backslash, or a here-document, keeps its lines."""
    shown: tuple[str, ...]
    """The lines of output that the page shows."""


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    opened: re.Match[str] | None = None
    start, lines = 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opened is None:
            if opened := _FENCE.match(line):
                start, lines = number, []
        elif line.strip() == opened["fence"]:
            title = _TITLE.search(opened["rest"])
            yield Block(opened["kind"], title["title"] if title else "", "\n".join(lines), start)
            opened = None
        else:
            lines.append(line.removeprefix(opened["indent"]))
    assert opened is None, f"{page}:{start}: the block is not closed"


def code_spans(page: Path) -> Iterator[tuple[int, str]]:
    """The code spans of a page with their lines; those in fenced blocks are left out."""
    fence = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        match = _FENCE.match(line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif match:
            fence = match["fence"]
        else:
            yield from ((number, span["code"]) for span in _SPAN.finditer(line))


def session(text: str) -> tuple[tuple[str, ...], tuple[Command, ...]]:
    """The output above the first command of a `console` block (more of the command before it), and the commands."""
    above: list[str] = []
    entries: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith(_PROMPT):
            entries.append(([line.removeprefix(_PROMPT)], []))
        elif not entries:
            above.append(line)
        elif _goes_on(entries[-1]):
            entries[-1][0].append(line.removeprefix("> "))
        else:
            entries[-1][1].append(line)
    commands = tuple(Command("\n".join(lines), tuple(shown)) for lines, shown in entries)
    return tuple(above), commands


def _goes_on(entry: tuple[list[str], list[str]]) -> bool:
    lines, shown = entry
    return not shown and lines[-1].endswith("\\")
