"""Slices of the evaluation: did the candidate get worse at one kind of request while the mean rose?

By what is asked (`label`), by `language`, and by the prompt's `length` in tokens. Every slice is
small and there are many, so by chance alone one of them always looks bad. Hence a slice fails only
if it lost more than its limit beyond doubt, with all that were looked at in mind (Holm's procedure).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
import pandas as pd

from tasks.core.settings import GateSettings, SliceSettings, SlicesSettings
from tasks.gate.bootstrap import Floats, holm, p_of_loss
from tasks.gate.comparison import Comparison, RuleFinding, compare, quality

COLUMNS = ("label", "language", "prompt_tokens")


@dataclass(frozen=True)
class Slice:
    """Some of the rows, by id, and when they are judged."""

    name: str
    ids: pd.Index
    settings: SliceSettings


def cut_slices(candidate: pd.DataFrame, settings: SlicesSettings) -> Iterator[Slice]:
    """The slices of rows that have `COLUMNS` and are indexed by id; each row is in one of each sort."""
    for sort, values, chosen in (
        ("label", candidate["label"], settings.label),
        ("language", candidate["language"], settings.language),
        ("length", _lengths(candidate["prompt_tokens"], settings.length.edges), settings.length),
    ):
        for value, part in candidate.groupby(values.to_numpy(), sort=True):
            yield Slice(f"{sort} {value}", part.index, chosen)


def _lengths(tokens: pd.Series, edges: tuple[int, ...]) -> pd.Series:
    """The stretch between `edges` that each number of tokens is in; an edge belongs to what is below it."""
    names = [f"up to {edges[0]}", *(f"{a + 1} to {b}" for a, b in pairwise(edges))]
    return pd.Series([*names, f"over {edges[-1]}"]).iloc[np.searchsorted(edges, tokens, side="left")]


def compare_slices(
    candidate: pd.DataFrame, others: Mapping[str, pd.DataFrame], settings: GateSettings
) -> tuple[list[Comparison], list[RuleFinding]]:
    """Compare every slice with every other system, and say which lost too much.

    A slice with fewer rows than its `min_rows` is compared, and named as not judged.

    Args:
        candidate, others: rows of each system, the same ids, with `COLUMNS` and `quality`.
    """
    parts = list(cut_slices(candidate, settings.slices))
    pairs = [(part, name, other) for name, other in others.items() for part in parts]
    compared = [
        compare(quality(candidate.loc[part.ids]), quality(other.loc[part.ids]), name, part.name, settings)
        for part, name, other in pairs
    ]
    judged = [place for place, (part, _, _) in enumerate(pairs) if len(part.ids) >= part.settings.min_rows]
    alpha = 1 - settings.confidence
    resamples = enough_resamples(len(judged), settings)
    p_values = [
        float(
            p_of_loss(
                _differences(candidate, other, part), part.settings.non_inferiority_margin, resamples, settings.seed
            )
        )
        for part, _, other in (pairs[place] for place in judged)
    ]
    lost = [place for place, rejected in zip(judged, holm(p_values, alpha), strict=True) if rejected]
    findings: list[RuleFinding] = [
        ("fail", _loss(compared[place], pairs[place][0].settings.non_inferiority_margin, len(judged))) for place in lost
    ]
    findings.append(("pass", f"{len(judged) - len(lost)} of {len(judged)} slices compared lost no more than they may."))
    if few := [f"{part.name} ({len(part.ids)})" for part in parts if len(part.ids) < part.settings.min_rows]:
        findings.append(("pass", f"Not judged, for want of rows: {', '.join(few)}."))
    return compared, findings


def enough_resamples(tests: int, settings: GateSettings) -> int:
    """So many that Holm's strictest level, for one of `tests`, is ten draws and not a fraction of one."""
    return max(settings.resamples, ceil(10 * tests / (1 - settings.confidence)))


def _differences(candidate: pd.DataFrame, other: pd.DataFrame, part: Slice) -> Floats:
    return quality(candidate.loc[part.ids]) - quality(other.loc[part.ids])


def _loss(found: Comparison, allowed: float, tests: int) -> str:
    return (
        f"Slice {found.slice}: quality is {found.candidate:.3f} against the {found.against}'s {found.other:.3f} "
        f"({found.n} rows), a loss of more than {allowed:.3f} beyond doubt, with {tests} slices compared."
    )
