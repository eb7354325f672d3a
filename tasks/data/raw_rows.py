"""Raw rows of `data/raw/*.jsonl`, line by line: a chat row, or the fault of the line.

A faulty line does not stop the reading, because the contract check reports all of them with file and line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.core.errors import GraftError
from tasks.core.records import ChatRow, dump_messages

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RawLine:
    """One line of a raw file."""

    file: str
    """The file's path, with slashes."""
    number: int
    """The line's number, from 1."""
    row: ChatRow | None
    """The line's row, or None if it cannot be read."""
    fault: str = ""
    """The reason that it cannot be read; empty otherwise."""

    @property
    def source(self) -> str:
        """The line's location, as `FILE:NUMBER`."""
        return f"{self.file}:{self.number}"


def parse_object(text: str) -> dict[str, Any]:
    """Parse one JSON text as an object.

    Raises:
        ValueError: the text is not JSON, or not an object; the message is short enough for a table.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not a chat row: nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected an object with `messages`, found {type(content).__name__}")
    return content


def check_row(content: dict[str, Any]) -> ChatRow:
    """Validate a parsed object as a chat row.

    Raises:
        ValueError: a field is missing, unknown or of another type, or its text is not Unicode.
    """
    try:
        row = ChatRow.model_validate(content)
        f"{row.id}{row.label}{row.group}{dump_messages(row.messages)}".encode()
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except UnicodeEncodeError as error:
        raise ValueError("text holds half of a surrogate pair, which is no character") from error
    return row


def parse_row(text: str) -> ChatRow:
    """Parse one JSON text as a chat row.

    Raises:
        ValueError: the text is not JSON, or not a chat row.
    """
    return check_row(parse_object(text))


def read_file(path: Path, parse: Callable[[str], ChatRow] = parse_row) -> Iterator[RawLine]:
    """The lines of one file but the blank ones. Reading ends at the first line that is not UTF-8.

    `parse` turns a line's text into a row, or raises ValueError with the line's fault.
    """
    file, has_rows = path.as_posix(), False
    with path.open("rb") as raw:
        for number, line in enumerate(raw, 1):
            try:
                text = line.removeprefix(_BOM if number == 1 else b"").decode("utf-8").strip()
            except UnicodeDecodeError as error:
                fault = f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
                yield RawLine(file, number, None, fault)
                return
            if not text:
                continue
            has_rows = True
            try:
                yield RawLine(file, number, parse(text))
            except ValueError as error:
                yield RawLine(file, number, None, str(error))
    if not has_rows:
        yield RawLine(file, 1, None, "the file is empty")


def name_row(row: ChatRow, file: str, number: int) -> ChatRow:
    """The row with an id (by default from its file and line) and a split group (by default its id)."""
    name = row.id or f"{Path(file).stem}:{number}"
    return row.model_copy(update={"id": name, "group": row.group or name})


def name_lines(lines: list[RawLine]) -> list[RawLine]:
    """The lines with an id and a group for every row; a row whose id was used before becomes a fault."""
    seen: dict[str, str] = {}
    named_lines = []
    for line in lines:
        if line.row is None:
            named_lines.append(line)
            continue
        row = name_row(line.row, line.file, line.number)
        first = seen.setdefault(row.id, line.source)
        fault = f"id {row.id} is already used at {first}" if first != line.source else ""
        named_lines.append(RawLine(line.file, line.number, None if fault else row, fault))
    return named_lines


def read_folder(folder: Path) -> list[RawLine]:
    """Every line of `folder`/*.jsonl, by file name and line; every row has an id and a group.

    Raises:
        GraftError: the folder has no such file.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise GraftError(
            f"{folder}: no *.jsonl there, so there is no data to train on; add data with: graft data add FILE"
        )
    return name_lines([line for path in files for line in read_file(path)])
