"""Eval tables: a package's evaluation results as Markdown. The decision on them is the gate's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tasks.core.settings import GateSettings
from tasks.evaluation.outputs import CANDIDATE, Rate
from tasks.gate.bootstrap import interval
from tasks.text.markdown import escape, row

SHOWN = {
    "exact_match": "exact match",
    "tool_call_match": "tool call",
    "token_f1": "token F1",
    "refusal_correct": "refusal",
    "valid_format": "valid format",
}
"""The columns of scores that tables show beside quality, with their titles."""


def by_system(rows: pd.DataFrame, settings: GateSettings) -> list[str]:
    """A table of each system's mean scores; quality with its bootstrap interval.

    Args:
        rows: evaluation rows, one per (system, example).
    """
    shown = {column: title for column, title in SHOWN.items() if column in rows and rows[column].notna().any()}
    title = f"quality ({settings.confidence:.0%} interval)"
    head = f"| {'system':9} | rows | {title} | {' | '.join(shown.values())} |"
    lines = [head, "| --- | ---: | --- |" + " ---: |" * len(shown)]
    for system, group in rows.groupby("system", sort=False):
        cell = _quality(group, settings)
        means = [f"{group[column].astype(float).mean():.3f}".rjust(len(shown[column])) for column in shown]
        lines.append(f"| {escape(system):9} | {len(group):4} | {cell:{len(title)}} | {' | '.join(means)} |")
    return lines


def by_label(rows: pd.DataFrame, settings: GateSettings) -> list[str]:
    """A table of the candidate's quality on each request kind, with its bootstrap interval, beside the others' means.

    Args:
        rows: evaluation rows, one per (system, example).
    """
    others = [system for system in rows["system"].unique() if system != CANDIDATE]
    lines = [
        f"| request kind | rows | quality ({settings.confidence:.0%} interval) | {' | '.join(map(escape, others))} |"
    ]
    lines.append("| --- | ---: | --- |" + " ---: |" * len(others))
    for label, group in rows.groupby("label"):
        systems = dict(list(group.groupby("system")))
        means = [f"{systems[system]['quality'].mean():.3f}" for system in others]
        candidate = systems[CANDIDATE]
        lines.append(f"| {escape(label)} | {len(candidate)} | {_quality(candidate, settings)} | {' | '.join(means)} |")
    return lines


def end_to_end(rates: Mapping[str, Rate]) -> list[str]:
    """A table of the rates of the end-to-end evaluation (stage `evaluate_assistant`)."""
    lines = ["| end-to-end rate | rows | value |", "| --- | ---: | ---: |"]
    values = {name: "" if rate.value is None else f"{rate.value:.4g}" for name, rate in rates.items()}
    return lines + [row((name, rates[name].n, value)) for name, value in values.items()]


def _quality(rows: pd.DataFrame, settings: GateSettings) -> str:
    quality = rows["quality"].to_numpy(dtype=np.float64)
    low, high = interval(quality, settings)
    return f"{quality.mean():.3f} ({low:.3f} to {high:.3f})"
