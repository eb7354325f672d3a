"""The telemetry store: no row is lost, and none is counted twice.

Also covers `tasks/monitoring/telemetry_row.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tasks.evaluation.response_features import ResponseFeatures
from tasks.monitoring.telemetry_row import SCHEMA, TelemetryRow
from tasks.monitoring.telemetry_store import TelemetryWriter, compact_left_overs, read_window

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ALL = (NOON - timedelta(days=3), NOON + timedelta(days=3))

CHILD = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from tasks.monitoring.telemetry_store import TelemetryRow, TelemetryWriter
writer = TelemetryWriter(7, Path(sys.argv[1]))
for number in range(1000):
    writer.append(TelemetryRow(trace_id=str(number), at=datetime(2026, 1, 31, 12, tzinfo=UTC), digest="d",
                               status=200, error="", stream=False, latency_ms=1.0))
    print(number, flush=True)
    time.sleep(0.001)
"""


def row(number: int, at: datetime = NOON) -> TelemetryRow:
    return TelemetryRow(trace_id=str(number), at=at, digest="d", status=200, error="", stream=True, latency_ms=2.5)


def open_files(root: Path) -> list[Path]:
    return list(root.glob("day=*/open-*.jsonl"))


def parts(root: Path) -> list[Path]:
    return list(root.glob("day=*/part-*.parquet"))


def test_a_row_has_every_feature() -> None:
    assert set(ResponseFeatures.model_fields) <= set(TelemetryRow.model_fields)


def test_no_text_from_outside_gets_into_a_row() -> None:
    """Whatever column it tries: rows are shown in HTML, Markdown and terminals."""
    texts = [name for name, field in TelemetryRow.model_fields.items() if "str" in str(field.annotation)]
    assert {"owner", "error", "tool_name", "steps", "decisions", "passed_over"} <= set(texts)
    for text in (
        "</script><script>alert(1)</script>",
        "`rm`",
        "a | b",
        "\x1b[31m",
        "line\nbreak",
        "x" * 500,
        "a\u202eb",
    ):
        plain = row(1).model_dump() | dict.fromkeys(texts, text)
        nested = json.dumps([{"tool": text, text: [text, 1.5, None]}])
        columns = ("steps", "passages", "findings", "decisions", "shadow")
        hostile = plain | dict.fromkeys(columns, nested)
        kept = TelemetryRow.model_validate(hostile)
        assert {getattr(kept, name) for name in texts if name not in columns} == {"(unlisted)"}
        assert json.loads(kept.steps) == [{"tool": "(unlisted)", "(unlisted)": ["(unlisted)", 1.5, None]}]
        assert text not in kept.model_dump_json()
    steps = [
        {"tool": "find_order", "reason": "It is too late to cancel: the order is sent.", "passages": ["a/b.md#ä/2"]}
    ]
    good = {"steps": json.dumps(steps), "error": "rate_limit_exceeded", "passed_over": "canary: first_token, previous"}
    kept = TelemetryRow.model_validate(row(1).model_dump() | good)
    assert json.loads(kept.steps) == steps
    assert kept.model_dump() | good | {"steps": kept.steps} == kept.model_dump()


def test_rows_are_read_back_from_parts_and_open_files(tmp_path: Path) -> None:
    writer = TelemetryWriter(3, tmp_path)
    for number in range(8):
        writer.append(row(number))
    assert len(parts(tmp_path)) == 2
    assert len(open_files(tmp_path)) == 1
    frame = read_window(*ALL, tmp_path)
    assert sorted(frame["trace_id"], key=int) == [str(n) for n in range(8)]
    assert frame["at"].iloc[0] == pd.Timestamp(NOON)
    assert pd.isna(frame["prompt_tokens"].iloc[0])
    writer.close()
    assert not open_files(tmp_path)
    assert len(read_window(*ALL, tmp_path)) == 8


def test_a_window_takes_its_start_and_leaves_its_end(tmp_path: Path) -> None:
    writer = TelemetryWriter(100, tmp_path)
    for hours in range(-30, 30):
        writer.append(row(hours, NOON + timedelta(hours=hours)))
    frame = read_window(NOON - timedelta(hours=20), NOON + timedelta(hours=20), tmp_path)
    assert [int(n) for n in frame["trace_id"]] == list(range(-20, 20))


def test_the_end_of_a_day_closes_its_file(tmp_path: Path) -> None:
    writer = TelemetryWriter(100, tmp_path)
    writer.append(row(1))
    writer.append(row(2, NOON + timedelta(days=1)))
    assert [p.parent.name for p in parts(tmp_path)] == ["day=2026-01-31"]
    assert [p.parent.name for p in open_files(tmp_path)] == ["day=2026-02-01"]


def test_an_empty_store_has_the_columns(tmp_path: Path) -> None:
    frame = read_window(*ALL, tmp_path)
    assert frame.empty
    assert list(frame.columns) == SCHEMA.names


def test_a_killed_writer_loses_nothing_and_its_file_is_taken_over(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = [child.stdout.readline() for _ in range(25)][-1]
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read().split()
    child.wait()
    last = int(rest[-1] if rest else acknowledged)
    expected = {str(n) for n in range(last + 1)}
    before = read_window(*ALL, tmp_path)
    assert expected <= set(before["trace_id"])
    assert before["trace_id"].is_unique
    # Another writer's start compacts the dead writer's file, once.
    TelemetryWriter(100, tmp_path)
    assert not open_files(tmp_path)
    after = read_window(*ALL, tmp_path)
    assert sorted(after["trace_id"]) == sorted(before["trace_id"])


def test_a_living_writers_file_is_left_alone(tmp_path: Path) -> None:
    writer = TelemetryWriter(100, tmp_path)
    writer.append(row(1))
    assert compact_left_overs(tmp_path) == 0
    writer.append(row(2))
    assert len(read_window(*ALL, tmp_path)) == 2


def test_a_segment_counts_once_while_both_its_files_exist(tmp_path: Path) -> None:
    """As after a kill between writing the part and removing the open file."""
    writer = TelemetryWriter(100, tmp_path)
    writer.append(row(1))
    (path,) = open_files(tmp_path)
    lines = path.read_bytes()
    writer.close()
    path.write_bytes(lines)
    assert len(read_window(*ALL, tmp_path)) == 1
    assert compact_left_overs(tmp_path) == 1
    assert not path.exists()
    assert len(read_window(*ALL, tmp_path)) == 1


def test_a_half_written_last_line_and_a_garbled_one_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "day=2026-01-31"
    folder.mkdir()
    whole = row(1).model_dump_json()
    (folder / "open-1-a.jsonl").write_text(whole + "\n\0\0\0\n" + whole[:40], encoding="utf-8")
    assert list(read_window(*ALL, tmp_path)["trace_id"]) == ["1"]
    assert "open-1-a.jsonl:2" in caplog.text


def test_a_row_of_another_version_is_still_read(tmp_path: Path) -> None:
    folder = tmp_path / "day=2026-01-31"
    folder.mkdir()
    (folder / "open-1-a.jsonl").write_text('{"trace_id": "x", "at": "2026-01-31T12:00:00Z", "later": 1}\n', "utf-8")
    assert list(read_window(*ALL, tmp_path)["trace_id"]) == ["x"]
    TelemetryWriter(100, tmp_path)
    assert list(read_window(*ALL, tmp_path)["trace_id"]) == ["x"]


def test_a_part_from_before_a_column_is_read_beside_one_that_has_it(tmp_path: Path) -> None:
    for number, visitor in ((1, ""), (2, "ab12")):
        writer = TelemetryWriter(100, tmp_path)
        writer.append(row(number, NOON + timedelta(seconds=number)).model_copy(update={"visitor": visitor}))
        if number == 1:
            writer.close()
            (old,) = parts(tmp_path)
            pq.write_table(pq.ParquetFile(old).read().drop_columns(["visitor", "meant"]), old)
    frame = read_window(*ALL, tmp_path)
    assert list(frame.columns) == SCHEMA.names
    assert list(frame["trace_id"]) == ["1", "2"]
    assert list(frame["visitor"].fillna("none")) == ["none", "ab12"]
