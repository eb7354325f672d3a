"""`data/raw/*.jsonl`, line by line: a chat row, or what is wrong with the line.

Bad lines do not stop the reading: the contract wants to show all of them, each with file and line.
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
    """One line of a raw file (`number` counts from 1): its row, or the `fault` that hides it."""

    file: str
    number: int
    row: ChatRow | None
    fault: str = ""

    @property
    def source(self) -> str:
        return f"{self.file}:{self.number}"


def parse_object(text: str) -> dict[str, Any]:
    """One JSON text as an object.

    Raises:
        ValueError: it is not JSON, or no object; the message is short and fit for a table.
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
    """A parsed object as a chat row.

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
    """One JSON text as a chat row.

    Raises:
        ValueError: it is not JSON, or not a chat row.
    """
    return check_row(parse_object(text))


def read_file(path: Path, parse: Callable[[str], ChatRow] = parse_row) -> Iterator[RawLine]:
    """The lines of one file; blank ones are passed over. Reading ends at the first byte that is not UTF-8.

    `parse` makes a line's text a row, or raises ValueError with what is wrong with it.
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
    """The row with an id (by default from its file and line) and a group (by default its id)."""
    name = row.id or f"{Path(file).stem}:{number}"
    return row.model_copy(update={"id": name, "group": row.group or name})


def name_lines(lines: list[RawLine]) -> list[RawLine]:
    """The lines with every row named; a row whose id was used before becomes a fault."""
    seen: dict[str, str] = {}
    named = []
    for line in lines:
        if line.row is None:
            named.append(line)
            continue
        row = name_row(line.row, line.file, line.number)
        first = seen.setdefault(row.id, line.source)
        fault = f"id {row.id} is already used at {first}" if first != line.source else ""
        named.append(RawLine(line.file, line.number, None if fault else row, fault))
    return named


def read_folder(folder: Path) -> list[RawLine]:
    """Every line of `folder`/*.jsonl, by file name and line, rows named.

    Raises:
        GraftError: there is no such file.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise GraftError(
            f"{folder}: no *.jsonl there, so there is nothing to learn from; bring data in with: graft data add FILE"
        )
    return name_lines([line for path in files for line in read_file(path)])
