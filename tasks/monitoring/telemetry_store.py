"""Telemetry store: one row per answer, partitioned by day, in Parquet, without customers' words.

.graft/telemetry/day=2026-01-31/open-SEGMENT.jsonl     rows of an active writer
.graft/telemetry/day=2026-01-31/part-SEGMENT.parquet   the same rows, once the segment is full

A row is passed to the operating system before `append` returns, so it outlives a killed process
(but not a power failure of the machine). A writer holds a lock on its open file; an open file without a
lock was left behind by a dead writer, and the next writer turns it into a part. While both files of a
segment exist, the part counts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.paths import TELEMETRY
from tasks.monitoring.telemetry_row import SCHEMA, TelemetryRow

_LOG = logging.getLogger(__name__)


class TelemetryWriter:
    """Appends rows; each serving process has one. It is thread-safe."""

    def __init__(self, rows_per_part: int, root: Path = TELEMETRY) -> None:
        self._root = root.resolve()
        self._rows_per_part = rows_per_part
        self._lock = threading.Lock()
        self._segment: _Segment | None = None
        compact_left_overs(self._root)

    def append(self, row: TelemetryRow) -> None:
        """Write a row so that it outlives this process.

        Raises:
            OSError: the disk does not accept the row; no part of it remains.
        """
        with self._lock:
            day = row.at.astimezone(UTC).date()
            if self._segment and (self._segment.day != day or self._segment.rows >= self._rows_per_part):
                self._segment.close()
                self._segment = None
            if self._segment is None:
                self._segment = _Segment(self._root, day)
            self._segment.append(row)

    def close(self) -> None:
        """Turn the open file into a part."""
        with self._lock:
            if self._segment:
                self._segment.close()
                self._segment = None


class _Segment:
    """One open file, locked for as long as it is open."""

    def __init__(self, root: Path, day: date) -> None:
        self.day = day
        self.rows = 0
        folder = root / f"day={day.isoformat()}"
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / f"open-{os.getpid()}-{uuid.uuid4().hex[:12]}.jsonl"
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            if _lock_existing(descriptor, path):
                self._path, self._descriptor = path, descriptor
                return
            os.close(descriptor)  # another writer compacted it between its creation and its lock

    def append(self, row: TelemetryRow) -> None:
        line = (row.model_dump_json() + "\n").encode()
        before = os.fstat(self._descriptor).st_size
        written = os.write(self._descriptor, line)
        if written < len(line):
            os.ftruncate(self._descriptor, before)
            raise OSError(f"{self._path}: the disk took {written} of {len(line)} bytes of a telemetry row")
        self.rows += 1

    def close(self) -> None:
        _compact(self._path)
        os.close(self._descriptor)


def _lock_existing(descriptor: int, path: Path) -> bool:
    """Lock an open file, provided that no other process holds its lock and `path` still refers to it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def compact_left_overs(root: Path) -> int:
    """Turn the open files of dead writers into parts; return their number."""
    done = 0
    for path in sorted(root.glob("day=*/open-*.jsonl")):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # its writer has just finished it
        try:
            if _lock_existing(descriptor, path):
                _compact(path)
                done += 1
        finally:
            os.close(descriptor)
    return done


def _part_of(path: Path) -> Path:
    return path.with_name(path.name.replace("open-", "part-").replace(".jsonl", ".parquet"))


def _compact(path: Path) -> None:
    """Write an open file's rows as a part, then remove it. The caller holds its lock."""
    part = _part_of(path)
    rows = _read_lines(path)
    if rows and not part.exists():
        temporary = part.with_name(f".{part.name}.tmp")
        pq.write_table(_table(rows), temporary)
        temporary.replace(part)
    path.unlink()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete rows of an open file; a last line without its end is still being written.

    An older version may have written the rows, so their fields are not validated. A line that a crash of the
    machine has garbled is left out with a warning.
    """
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    rows = []
    for number, line in enumerate(complete.split(b"\n") if complete else (), start=1):
        try:
            row = json.loads(line)
            rows.append({**row, "at": datetime.fromisoformat(row["at"])})
        except (ValueError, TypeError, KeyError):
            _LOG.warning("%s:%d: not a telemetry row; left out", path, number)
    return rows


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def read_window(start: datetime, end: datetime, root: Path = TELEMETRY) -> pd.DataFrame:
    """The rows with `start <= at < end` (both aware), oldest first; columns as in `TelemetryRow`.

    Numbers that could not be measured are NaN. Each row counts once, even while a part is being written.
    """
    days = [folder for folder in sorted(root.glob("day=*")) if _overlaps(folder, start, end)]
    # The order matters: an open file that vanishes after this listing is a part before the parts are listed.
    still_open = dict(_read_open(days))
    parts = [path for folder in days for path in sorted(folder.glob("part-*.parquet"))]
    lines = [row for path, rows in still_open.items() if _part_of(path) not in set(parts) for row in rows]
    tables = [pq.ParquetFile(path).read() for path in parts] + [_table(lines)]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables], promote_options="default").select(SCHEMA.names)
    frame: pd.DataFrame = table.to_pandas()
    inside = (frame["at"] >= pd.Timestamp(start)) & (frame["at"] < pd.Timestamp(end))
    return frame[inside].sort_values("at", ignore_index=True)


def _read_open(days: list[Path]) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    for path in [path for folder in days for path in sorted(folder.glob("open-*.jsonl"))]:
        try:
            yield path, _read_lines(path)
        except FileNotFoundError:
            continue


def _overlaps(folder: Path, start: datetime, end: datetime) -> bool:
    day = date.fromisoformat(folder.name.removeprefix("day="))
    first, last = (pd.Timestamp(moment).tz_convert("UTC").date() for moment in (start, end))
    return first <= day <= last
