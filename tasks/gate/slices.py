"""Slices of the evaluation: did the candidate get worse at one kind of request while the mean rose?

Rows are sliced by the kind of request (`label`), by `language`, and by the prompt's `length` in tokens.
Every slice is small and there are many, so by chance alone one of them always looks bad. Hence a slice fails
only if it lost significantly more than its limit, with a correction for all slices tested (Holm's procedure).
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
    """A slice of the eval rows."""

    name: str
    """Dimension and value, such as `label tool`."""
    ids: pd.Index
    """Ids of its rows."""
    settings: SliceSettings
    """From how many rows it is judged, and its limit."""


def cut_slices(candidate: pd.DataFrame, settings: SlicesSettings) -> Iterator[Slice]:
    """The slices of rows that have `COLUMNS` and are indexed by id; each row is in one slice per dimension."""
    for dimension, values, limits in (
        ("label", candidate["label"], settings.label),
        ("language", candidate["language"], settings.language),
        ("length", _lengths(candidate["prompt_tokens"], settings.length.edges), settings.length),
    ):
        for value, rows in candidate.groupby(values.to_numpy(), sort=True):
            yield Slice(f"{dimension} {value}", rows.index, limits)


def _lengths(tokens: pd.Series, edges: tuple[int, ...]) -> pd.Series:
    """The bin between `edges` of each number of tokens; an edge belongs to the bin below it."""
    names = [f"up to {edges[0]}", *(f"{a + 1} to {b}" for a, b in pairwise(edges))]
    return pd.Series([*names, f"over {edges[-1]}"]).iloc[np.searchsorted(edges, tokens, side="left")]


def compare_slices(
    candidate: pd.DataFrame, others: Mapping[str, pd.DataFrame], settings: GateSettings
) -> tuple[list[Comparison], list[RuleFinding]]:
    """Compare every slice with every other system, and find those that lost too much.

    A slice with fewer rows than its `min_rows` is compared and listed as not judged.

    Args:
        candidate: rows of the candidate, indexed by id, with `COLUMNS` and `quality`.
        others: rows of each other system by its name, with the same ids and columns.
        settings: the section `gate` of params.yaml.
    """
    parts = list(cut_slices(candidate, settings.slices))
    pairs = [(part, name, other) for name, other in others.items() for part in parts]
    comparisons = [
        compare(quality(candidate.loc[part.ids]), quality(other.loc[part.ids]), name, part.name, settings)
        for part, name, other in pairs
    ]
    judged = [index for index, (part, _, _) in enumerate(pairs) if len(part.ids) >= part.settings.min_rows]
    alpha = 1 - settings.confidence
    resamples = enough_resamples(len(judged), settings)
    p_values = [
        float(
            p_of_loss(
                _differences(candidate, other, part), part.settings.non_inferiority_margin, resamples, settings.seed
            )
        )
        for part, _, other in (pairs[index] for index in judged)
    ]
    lost = [index for index, rejected in zip(judged, holm(p_values, alpha), strict=True) if rejected]
    findings: list[RuleFinding] = [
        ("fail", _loss(comparisons[index], pairs[index][0].settings.non_inferiority_margin, len(judged)))
        for index in lost
    ]
    findings.append(("pass", f"{len(judged) - len(lost)} of {len(judged)} slices compared are within their limits."))
    if few := [f"{part.name} ({len(part.ids)})" for part in parts if len(part.ids) < part.settings.min_rows]:
        findings.append(("pass", f"Not judged, because they have too few rows: {', '.join(few)}."))
    return comparisons, findings


def enough_resamples(tests: int, settings: GateSettings) -> int:
    """Enough resamples for Holm's strictest level over `tests` tests to be ten draws and not a fraction of one."""
    return max(settings.resamples, ceil(10 * tests / (1 - settings.confidence)))


def _differences(candidate: pd.DataFrame, other: pd.DataFrame, part: Slice) -> Floats:
    return quality(candidate.loc[part.ids]) - quality(other.loc[part.ids])


def _loss(comparison: Comparison, max_loss: float, tests: int) -> str:
    return (
        f"Slice {comparison.slice}: quality is {comparison.candidate:.3f} against the {comparison.against}'s "
        f"{comparison.other:.3f} ({comparison.n} rows), a loss significantly above the tolerated {max_loss:.3f}, "
        f"with {tests} slices compared."
    )
