"""Shadow comparison: how far two packages' answers to the same request agree. No text is kept.

A shadow is asked what production was asked, and its answer goes to nobody. Whether it is the better
one is not said here: two answers may differ and both be right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import AwareDatetime

from tasks.core.records import Record, ToolCall
from tasks.evaluation.scoring import token_f1, tool_call_match

SHADOW = "shadow"
"""The place of a package whose answers nobody sees, and the operation and route of its telemetry rows."""


@dataclass(frozen=True)
class ShadowAnswer:
    """One package's answer: its words, the tools that it asked for first, and what is counted of it."""

    digest: str
    text: str
    tool_calls: tuple[ToolCall, ...]
    refused: bool
    finish_reason: str
    latency_ms: float


class ShadowPair(Record):
    """What is kept of two answers to one request: plain numbers and names, as in a telemetry row.

    `tool` is the first tool asked for, empty where there is none. `same_call` asks for the same tools
    with the same arguments, `same_tool` for their names alone; both hold where neither asked for any.
    `token_f1` is of the words, in [0, 1]. `length_ratio` is the shadow's characters over production's,
    None where production said nothing.
    """

    trace_id: str
    at: AwareDatetime
    production: str
    shadow: str
    production_tool: str
    shadow_tool: str
    same_tool: bool
    same_call: bool
    production_refused: bool
    shadow_refused: bool
    production_finish_reason: str
    shadow_finish_reason: str
    token_f1: float
    length_ratio: float | None
    production_ms: float
    shadow_ms: float


class Agreement(Record):
    """`n` pairs together: shares in [0, 1], the mean F1, and medians of ratios, shadow over production.

    `new_refusals` are requests that the shadow alone refused. What nothing can be said of is None.
    """

    n: int
    same_tool: float | None
    same_call: float | None
    both_refused: float | None
    new_refusals: float | None
    lost_refusals: float | None
    token_f1: float | None
    length_ratio: float | None
    latency_ratio: float | None


def compare_answers(trace_id: str, at: AwareDatetime, production: ShadowAnswer, shadow: ShadowAnswer) -> ShadowPair:
    """Compare two answers to the request `trace_id` of the moment `at` (aware)."""
    names = [[call.name for call in answer.tool_calls] for answer in (production, shadow)]
    match = tool_call_match(shadow.tool_calls, production.tool_calls)
    return ShadowPair(
        trace_id=trace_id,
        at=at,
        production=production.digest,
        shadow=shadow.digest,
        production_tool="".join(names[0][:1]),
        shadow_tool="".join(names[1][:1]),
        same_tool=names[0] == names[1],
        same_call=not shadow.tool_calls if math.isnan(match) else match == 1.0,
        production_refused=production.refused,
        shadow_refused=shadow.refused,
        production_finish_reason=production.finish_reason,
        shadow_finish_reason=shadow.finish_reason,
        token_f1=token_f1(shadow.text, production.text),
        length_ratio=len(shadow.text) / len(production.text) if production.text else None,
        production_ms=production.latency_ms,
        shadow_ms=shadow.latency_ms,
    )


def agreement(pairs: Sequence[ShadowPair]) -> Agreement:
    """What pairs come to together."""
    ratios = [p.length_ratio for p in pairs if p.length_ratio is not None]
    return Agreement(
        n=len(pairs),
        same_tool=_mean([p.same_tool for p in pairs]),
        same_call=_mean([p.same_call for p in pairs]),
        both_refused=_mean([p.shadow_refused and p.production_refused for p in pairs]),
        new_refusals=_mean([p.shadow_refused and not p.production_refused for p in pairs]),
        lost_refusals=_mean([p.production_refused and not p.shadow_refused for p in pairs]),
        token_f1=_mean([p.token_f1 for p in pairs]),
        length_ratio=float(np.median(ratios)) if ratios else None,
        latency_ratio=float(np.median([p.shadow_ms / p.production_ms for p in pairs])) if pairs else None,
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
