"""Tests of the log lines that `graft run` shows of a flow."""

from __future__ import annotations

import pytest

from deployments.stack.run_flow import render


def line(message: str, name: str = "prefect.task_runs") -> dict[str, str]:
    return {"message": message, "name": name, "timestamp": "2026-01-31T10:00:00+00:00", "id": "1"}


def test_a_stages_line_is_shown_with_a_time() -> None:
    assert render(line("train: 3/9 steps, 310.5 tokens/s, 2 s left")).endswith(
        ":00:00  train: 3/9 steps, 310.5 tokens/s, 2 s left"
    )


@pytest.mark.parametrize(
    "message",
    [
        "Finished in state Cached('train: unchanged', type=COMPLETED)",
        "Finished in state Cached(message='train: unchanged', type=COMPLETED)",
        'Finished in state Cached("train: unchanged", type=COMPLETED)',
    ],
)
def test_a_cached_step_is_shown_by_its_reason(message: str) -> None:
    assert render(line(message)).endswith("  train: unchanged")


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("Finished in state Completed()", "prefect.task_runs"),
        ("Task run failed with state: Failed(message='x')", "prefect.task_runs"),
        ("Worker 'graft' submitting flow run 'x'", "prefect.flow_runs.worker"),
    ],
)
def test_bookkeeping_is_not_shown(message: str, name: str) -> None:
    assert render(line(message, name)) == ""
