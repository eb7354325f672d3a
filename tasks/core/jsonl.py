"""Files of records, one JSON object a line, that people write: each line is checked, and a wrong one is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tasks.core.errors import GraftError
from tasks.core.records import Record

R = TypeVar("R", bound=Record)


def read_lines(path: Path, record: type[R], without: str) -> Iterator[tuple[str, R]]:
    """Each line's place, as `FILE:NUMBER`, and its record. An empty file has none.

    Args:
        path: the file.
        record: what a line holds.
        without: what to do for want of such records, for the error of a file that cannot be read.

    Raises:
        GraftError: the file cannot be read, or a line is no such record.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise GraftError(f"{path}: not readable as UTF-8 text ({error}); {without}") from error
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        where = f"{path}:{number}"
        try:
            yield where, record.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise GraftError(f"{where}: {place + ': ' if place else ''}{first['msg']}") from error
