"""JSONL reader for files that people write: one JSON object per line, each checked; errors name the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tasks.core.errors import GraftError
from tasks.core.records import Record

R = TypeVar("R", bound=Record)


def read_lines(path: Path, record: type[R], remedy: str) -> Iterator[tuple[str, R]]:
    """Each line's location, as `FILE:NUMBER`, and its record. An empty file has none.

    Args:
        path: the file.
        record: the type of each line's record.
        remedy: what to do without such records; it ends the error message of a file that cannot be read.

    Raises:
        GraftError: the file cannot be read, or a line is no such record.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise GraftError(f"{path}: not readable as UTF-8 text ({error}); {remedy}") from error
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        where = f"{path}:{number}"
        try:
            yield where, record.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise GraftError(f"{where}: {field + ': ' if field else ''}{first['msg']}") from error
