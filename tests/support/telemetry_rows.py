"""Telemetry rows of a canary beside production, as the assistant would write them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.monitoring.telemetry_store import TelemetryWriter, read_window

CANARY, PRODUCTION = "c" * 64, "p" * 64
PATIENCE_S = 8.0
START = datetime(2026, 1, 31, 12, tzinfo=UTC)


def row(second: float, digest: str = PRODUCTION, **fields: Any) -> TelemetryRow:
    """The row of a good answer, `second` seconds after `START`, except for `fields`."""
    good: dict[str, Any] = {
        "status": 200,
        "error": "",
        "stream": False,
        "latency_ms": 100.0,
        "first_token_ms": 50.0,
        "owner": "shop",
        "cache": "miss",
        "route": "canary" if digest == CANARY else "production",
        "meant": digest,
        "user_chars": 40,
        "turns": 1,
        "prompt_tokens": 200,
        "completion_tokens": 20,
        "answer_chars": 80,
        "finish_reason": "stop",
        "tool_name": "",
        "refused": False,
        "valid_format": True,
    }
    at = START + timedelta(seconds=second)
    return TelemetryRow(trace_id=f"{digest[:1]}{second}", at=at, digest=digest, **good | fields)


def failure(second: float, digest: str, status: int = 500, **fields: Any) -> TelemetryRow:
    """The row of a request that `digest` answered with an error; the answer's columns are None."""
    unknown = dict.fromkeys(
        ("first_token_ms", "user_chars", "turns", "answer_chars", "finish_reason", "tool_name", "refused"), None
    )
    return row(second, digest, status=status, error="internal_error", valid_format=None, **unknown | fields)


def stored(rows: Iterable[TelemetryRow], root: Path) -> pd.DataFrame:
    """The rows after a round trip through a telemetry store."""
    writer = TelemetryWriter(rows_per_part=10_000, root=root)
    for one in rows:
        writer.append(one)
    writer.close()
    return read_window(START - timedelta(hours=1), START + timedelta(hours=2), root)
