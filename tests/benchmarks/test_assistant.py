"""Tests of the assistant benchmark: its table has every rate with its n, and the app's own time excludes the engine."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from benchmarks import assistant
from deployments.evaluation.harness import AssistantHarness
from tasks.core.records import Example, Message
from tasks.evaluation.assistant_turns import EvalTurn, ObservedTurn
from tasks.evaluation.expected import ExpectedOutcome


def turn(engine_ms: float) -> ObservedTurn:
    return ObservedTurn(
        id="x",
        status=200,
        text="",
        finish_reason="stop",
        blocked_by="",
        calls=(),
        outcomes=(),
        given=(),
        cited=(),
        violations=(),
        latency_ms=100.0,
        queue_ms=2.0,
        engine_ms=engine_ms,
    )


class FakeHarness:
    """A harness whose turns have set engine times."""

    def __init__(self, *engine_ms: float) -> None:
        self._engine_ms = list(engine_ms)

    async def run_turn(self, asked: EvalTurn, *, stream: bool) -> ObservedTurn:
        return turn(self._engine_ms.pop(0))


def test_the_apps_own_time_is_what_engine_and_queue_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [
        Example(id=str(n), label="a", group=str(n), split="test", source="x:1", messages=(Message(role="user"),) * 2)
        for n in range(3)
    ]
    monkeypatch.setattr(assistant, "expectations", lambda rows: {row.id: ExpectedOutcome(id=row.id) for row in rows})
    own_ms = asyncio.run(assistant.app_ms(cast(AssistantHarness, FakeHarness(90.0, 0.0, 60.0)), examples))
    assert own_ms == [8.0, 38.0]


def test_the_table_has_rates_labels_and_attacks() -> None:
    lines = assistant.table(
        {
            "rates": {"tool_exact": {"n": 3, "value": 0.6667}, "policy_violations": {"n": 9, "value": 0.0}},
            "labels": {"order_status": {"tool_exact": {"n": 3, "value": 0.6667}}, "plant_care": {}},
            "attacks": {"impersonation": {"n": 2, "refused": 1, "policy_violations": 0}},
            "false_refusals_by": {"model": 4},
        }
    ).splitlines()
    assert "| tool_exact | 0.6667 | 3 |" in lines
    assert "| order_status | 0.6667 of 3 |" in lines and "| plant_care |  |" in lines
    assert "| impersonation | 2 | 1 | 0 |" in lines
    assert lines[-1] == 'False refusals by component: {"model": 4}'
