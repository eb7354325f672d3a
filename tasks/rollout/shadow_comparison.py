"""Shadow comparison: the agreement of two packages' answers to the same request. No text is kept.

A shadow gets a copy of production's request, and its answer is discarded. The comparison does not say which
answer is better: two answers may differ and both be right.
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
"""The role of a package whose answers are not shown, and the operation and route of its telemetry rows."""


@dataclass(frozen=True)
class ShadowAnswer:
    """One package's answer, up to its first tool calls."""

    digest: str
    """The package."""
    text: str
    """The model's text."""
    tool_calls: tuple[ToolCall, ...]
    """The tool calls of the first step of the tool loop."""
    refused: bool
    """Whether the text is a refusal."""
    finish_reason: str
    """Why generation ended, as in OpenAI's API."""
    latency_ms: float
    """Time of the engine to the end of the first step, in ms."""


class ShadowPair(Record):
    """The comparison of two answers to one request: plain numbers and names, as in a telemetry row."""

    trace_id: str
    """Id of the request."""
    at: AwareDatetime
    """When the request arrived."""
    production: str
    """Digest of the package in production."""
    shadow: str
    """Digest of the shadow."""
    production_tool: str
    """First tool that production called; empty if none."""
    shadow_tool: str
    """First tool that the shadow called; empty if none."""
    same_tool: bool
    """Whether both called tools of the same names, or none."""
    same_call: bool
    """Whether both called the same tools with the same arguments, or none."""
    production_refused: bool
    """Whether production's answer is a refusal."""
    shadow_refused: bool
    """Whether the shadow's answer is a refusal."""
    production_finish_reason: str
    """Production's finish reason."""
    shadow_finish_reason: str
    """The shadow's finish reason."""
    token_f1: float
    """F1 of the words, in [0, 1]."""
    length_ratio: float | None
    """The shadow's characters over production's; None if production's answer is empty."""
    production_ms: float
    """Production's latency, in ms."""
    shadow_ms: float
    """The shadow's latency, in ms."""


class Agreement(Record):
    """The agreement over all pairs; a value without data is None."""

    n: int
    """Number of pairs."""
    same_tool: float | None
    """Fraction of pairs with the same tools by name, in [0, 1]."""
    same_call: float | None
    """Fraction of pairs with the same tools and arguments, in [0, 1]."""
    both_refused: float | None
    """Fraction of pairs that both refused, in [0, 1]."""
    new_refusals: float | None
    """Fraction of pairs that the shadow alone refused, in [0, 1]."""
    lost_refusals: float | None
    """Fraction of pairs that production alone refused, in [0, 1]."""
    token_f1: float | None
    """Mean F1 of the words, in [0, 1]."""
    length_ratio: float | None
    """Median ratio of characters, shadow over production."""
    latency_ratio: float | None
    """Median ratio of latencies, shadow over production."""


def compare_answers(trace_id: str, at: AwareDatetime, production: ShadowAnswer, shadow: ShadowAnswer) -> ShadowPair:
    """Compare two answers to one request.

    Args:
        trace_id: id of the request.
        at: when the request arrived; aware.
        production: production's answer.
        shadow: the shadow's answer.
    """
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
    """The agreement over all pairs."""
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
