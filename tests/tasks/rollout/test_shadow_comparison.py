"""Tests of the shadow comparison: the agreement of pairs of answers, and that none of their words is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest

from tasks.core.records import ToolCall
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.rollout.shadow_comparison import ShadowAnswer, ShadowPair, agreement, compare_answers

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
FIND = ToolCall(name="find_order", arguments={"order": "HL-10251"})


def answer(digest: str, text: str = "It is on its way.", *calls: ToolCall, **fields: Any) -> ShadowAnswer:
    values = {"refused": False, "finish_reason": "stop", "latency_ms": 100.0} | fields
    return ShadowAnswer(digest, text, calls, **values)


def compare(production: ShadowAnswer, shadow: ShadowAnswer) -> ShadowPair:
    return compare_answers("trace", AT, production, shadow)


def test_equal_answers_agree_in_all() -> None:
    pair = compare(answer("p"), answer("s", latency_ms=150.0))
    assert (pair.same_tool, pair.same_call, pair.token_f1, pair.length_ratio) == (True, True, 1.0, 1.0)
    assert (pair.production, pair.shadow, pair.production_ms, pair.shadow_ms) == ("p", "s", 100.0, 150.0)


def test_words_are_compared_by_their_f1_and_length() -> None:
    pair = compare(answer("p", "one two three four"), answer("s", "one two"))
    assert pair.token_f1 == pytest.approx(2 / 3)
    assert pair.length_ratio == pytest.approx(7 / 18)


@pytest.mark.parametrize(
    ("calls", "same_tool", "same_call", "tool"),
    [
        ([FIND], True, True, "find_order"),
        ([ToolCall(name="find_order", arguments={"order": "hl-10251"})], True, True, "find_order"),
        ([ToolCall(name="find_order", arguments={"order": "HL-10252"})], True, False, "find_order"),
        ([ToolCall(name="cancel_order", arguments={"order": "HL-10251"})], False, False, "cancel_order"),
        ([FIND, FIND], False, False, "find_order"),
        ([], False, False, ""),
    ],
)
def test_tools_are_compared_by_name_and_by_arguments(
    calls: list[ToolCall], same_tool: bool, same_call: bool, tool: str
) -> None:
    pair = compare(answer("p", "", FIND), answer("s", "", *calls))
    assert (pair.same_tool, pair.same_call) == (same_tool, same_call)
    assert (pair.production_tool, pair.shadow_tool) == ("find_order", tool)
    assert pair.length_ratio is None


def test_a_call_where_production_spoke_is_another_tool() -> None:
    pair = compare(answer("p"), answer("s", "", FIND))
    assert (pair.same_tool, pair.same_call, pair.token_f1) == (False, False, 0.0)


def test_no_words_are_kept() -> None:
    kept = compare(
        answer("p", "Ada Lovelace lives in Ockham", FIND), answer("s", "Grace Hopper in Arlington", FIND)
    ).model_dump_json()
    assert not [word for word in ("Ada", "Ockham", "Grace", "Arlington", "HL-10251") if word in kept]


def test_a_pair_has_only_what_a_telemetry_row_can_have() -> None:
    """Its fields have the same types, so that the store's columns can hold them."""
    assert set(get_type_hints(ShadowPair).values()) <= set(get_type_hints(TelemetryRow).values())


def test_agreement_counts_shares_and_takes_medians() -> None:
    pairs = [
        compare(answer("p"), answer("s", latency_ms=200.0)),
        compare(answer("p", refused=True), answer("s", refused=True, latency_ms=300.0)),
        compare(answer("p"), answer("s", "I cannot.", refused=True, latency_ms=100.0)),
        compare(answer("p", "", FIND, refused=True), answer("s", "", FIND, latency_ms=400.0)),
    ]
    total = agreement(pairs)
    assert (total.n, total.same_tool, total.same_call) == (4, 1.0, 1.0)
    assert (total.both_refused, total.new_refusals, total.lost_refusals) == (0.25, 0.25, 0.25)
    assert total.token_f1 == pytest.approx((1 + 1 + pairs[2].token_f1 + 1) / 4)
    assert (total.length_ratio, total.latency_ratio) == (1.0, 2.5)


def test_no_pairs_agree_in_nothing() -> None:
    assert agreement([]).model_dump(exclude={"n"}, exclude_none=True) == {}
