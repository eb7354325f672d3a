"""File formats of `graft data add`: chat JSONL or CSV as rows, and a description of what was read."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.core.errors import GraftError
from tasks.core.records import ChatRow, Message
from tasks.data.raw_rows import RawLine, check_row, name_lines, parse_object, read_file

DELIMITERS = (",", ";", "\t")
LABEL_CHARS = 60
"""The longest label, in characters; a longer target is an answer."""
MAX_FIELD_CHARS = 10_000_000
"""The longest cell of a CSV, in characters."""


@dataclass(frozen=True)
class ImportFile:
    """A file that was read for import."""

    file: Path
    """The file's path."""
    kind: str
    """Its format: `chat JSONL` or `CSV`."""
    lines: tuple[RawLine, ...]
    """Its lines, readable or not."""
    columns: tuple[str, ...] = ()
    """The columns of a CSV."""
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The tool schemas that its rows declare, by the tools' names."""

    @property
    def rows(self) -> list[ChatRow]:
        """The rows of its readable lines."""
        return [line.row for line in self.lines if line.row is not None]

    def with_rows(self, rows: Sequence[ChatRow]) -> ImportFile:
        """A copy with other rows, in the same order."""
        fresh = iter(rows)
        return replace(self, lines=tuple(replace(line, row=next(fresh)) if line.row else line for line in self.lines))

    def describe(self) -> str:
        """Format, rows, columns, labels and the first row, so that a person can check whether it was read correctly."""
        rows = self.rows
        labels = Counter(row.label for row in rows)
        common_labels = ", ".join(f"{label or '(none)'} {count}" for label, count in labels.most_common(6))
        unreadable = len(self.lines) - len(rows)
        parts = [
            f"{self.file}: {self.kind}, {len(rows)} rows" + (f", {unreadable} unreadable lines" if unreadable else ""),
            f"  columns: {', '.join(self.columns)}" if self.columns else "",
            f"  tools declared: {', '.join(sorted(self.tools))}" if self.tools else "",
            f"  labels: {len(labels)} ({common_labels}{', …' if len(labels) > 6 else ''})",
            *(f"  first row, {message.role}: {_preview(message)}" for message in (rows[0].messages if rows else ())),
        ]
        return "\n".join(part for part in parts if part)


def _preview(message: Message) -> str:
    calls = " ".join(f"{call.name}({call.arguments})" for call in message.tool_calls)
    text = " ".join(f"{message.content} {calls}".split())
    return text if len(text) <= 100 else f"{text[:99]}…"


def read_import(file: Path, input_column: str | None, target_column: str | None) -> ImportFile:
    """Read a file by its extension: .jsonl or .json line by line, .csv or .tsv by its columns.

    Raises:
        GraftError: the file is missing, empty or of another format, or the columns of a CSV are not named.
    """
    if not file.is_file():
        raise GraftError(f"{file}: no such file")
    kind = file.suffix.lower()
    if kind in (".csv", ".tsv"):
        return _read_csv(file, input_column, target_column)
    if kind not in (".jsonl", ".json"):
        raise GraftError(f"{file}: expected chat JSONL (.jsonl) or a table (.csv); found {kind or 'no file extension'}")
    if input_column or target_column:
        raise GraftError(f"{file}: --input and --target name columns of a CSV; chat JSONL has none")
    tools: dict[str, dict[str, Any]] = {}
    lines = name_lines(list(read_file(file, lambda text: _parse_chat(text, tools))))
    return ImportFile(file, "chat JSONL", tuple(lines), tools=tools)


def _parse_chat(text: str, tools: dict[str, dict[str, Any]]) -> ChatRow:
    """A row in OpenAI's fine-tuning format; the tools that it declares are collected in `tools`."""
    content = parse_object(text)
    content.pop("parallel_tool_calls", None)
    try:
        for tool in content.pop("tools", None) or ():
            function = tool["function"]
            function.setdefault("parameters", {"type": "object", "properties": {}}).setdefault("properties", {})
            tools.setdefault(str(function["name"]), tool)
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"tools: expected a list of OpenAI tool schemas ({error!r})") from error
    return check_row(content)


def _read_csv(file: Path, input_column: str | None, target_column: str | None) -> ImportFile:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise GraftError(f"{file}:{line}: not UTF-8; save the file as UTF-8 and try again") from error
    if not text.strip():
        raise GraftError(f"{file}: the file is empty")
    csv.field_size_limit(MAX_FIELD_CHARS)
    delimiter, header = _header(file, text, input_column, target_column)
    column_indexes = (header.index(str(input_column)), header.index(str(target_column)))
    lines, start = [], 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            if cells and start > 1:
                lines.append(_table_line(file, start, cells, len(header), column_indexes))
            start = reader.line_num + 1
    except csv.Error as error:
        raise GraftError(f"{file}:{reader.line_num}: not readable as CSV: {error}") from error
    if not lines:
        raise GraftError(f"{file}: a header and no rows")
    table = ImportFile(file, "CSV", tuple(name_lines(lines)), tuple(header))
    return table.with_rows(_with_labels(table.rows))


def _header(file: Path, text: str, input_column: str | None, target_column: str | None) -> tuple[str, list[str]]:
    """The delimiter with which the header has both columns, and the header."""
    headers: dict[str, list[str]] = {
        delimiter: next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []) for delimiter in DELIMITERS
    }
    for delimiter, header in headers.items():
        if input_column in header and target_column in header:
            return delimiter, header
    widest: list[str] = max(headers.values(), key=len)
    missing = [name for name in (input_column, target_column) if name]
    columns_found = f"it has the columns {', '.join(widest)}"
    if len(missing) < 2:
        raise GraftError(f"{file}: name the columns to use, --input COLUMN --target COLUMN; {columns_found}")
    raise GraftError(f"{file}: it has no columns {' and '.join(missing)}; {columns_found}")


def _table_line(file: Path, number: int, cells: list[str], width: int, column_indexes: tuple[int, int]) -> RawLine:
    """One record of a CSV as a user turn and an answer.

    Args:
        file: the CSV.
        number: the record's first line, from 1; a record may span lines.
        cells: the record's cells.
        width: the number of columns of the header.
        column_indexes: the indexes of the columns of user turns and of answers.
    """
    if len(cells) != width:
        return RawLine(file.as_posix(), number, None, f"{len(cells)} cells, but the header has {width}")
    question, answer = (cells[index].strip() for index in column_indexes)
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return RawLine(file.as_posix(), number, ChatRow(messages=messages))


def _with_labels(rows: Sequence[ChatRow]) -> list[ChatRow]:
    """Rows labeled by their targets if these are short names that recur; free-text targets get the label `answer`."""
    targets = [row.messages[-1].content for row in rows]
    names = set(targets)
    are_labels = len(names) <= max(2, len(rows) // 2) and all(
        len(name) <= LABEL_CHARS and "\n" not in name for name in names
    )
    labels = targets if are_labels else ["answer"] * len(rows)
    return [row.model_copy(update={"label": label}) for row, label in zip(rows, labels, strict=True)]
