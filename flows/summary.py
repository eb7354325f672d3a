"""What a person wants to know after a release: where it answers, as what, how good it is, where to look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.bootstrap import interval
from tasks.settings import GateSettings

_SHOWN = {
    "exact_match": "exact match",
    "tool_call_match": "tool call",
    "token_f1": "token F1",
    "refusal_correct": "refusal",
    "valid_format": "valid format",
}


@dataclass(frozen=True)
class Released:
    """A package in production."""

    name: str
    digest: str
    since: datetime
    base_url: str
    key: str
    run_url: str
    report: Path
    card: Path


def render(released: Released, rows: pd.DataFrame, settings: GateSettings) -> str:
    """The summary, readable as plain text and as Markdown.

    Args:
        rows: the package's evaluation rows, one per (system, example).
    """
    lines = [
        f"# {released.name} is in production",
        "",
        f"- base URL: {released.base_url}",
        f"- key: {released.key}",
        f"- model: {released.digest} (or: production)",
        f"- in production since: {released.since:%Y-%m-%d %H:%M} UTC",
        "",
        *figures(rows, settings),
        "",
        f"- run: {released.run_url}",
        f"- contract report: {released.report}",
        f"- model card: {released.card}",
    ]
    return "\n".join(lines) + "\n"


def figures(rows: pd.DataFrame, settings: GateSettings) -> list[str]:
    """A table of each system's mean scores; quality with its bootstrap interval."""
    shown = {column: title for column, title in _SHOWN.items() if column in rows and rows[column].notna().any()}
    title = f"quality ({settings.confidence:.0%} interval)"
    head = f"| {'system':9} | rows | {title} | {' | '.join(shown.values())} |"
    lines = [head, "| --- | ---: | --- |" + " ---: |" * len(shown)]
    for system, found in rows.groupby("system", sort=False):
        quality = found["quality"].to_numpy(dtype=np.float64)
        low, high = interval(quality, settings)
        cell = f"{quality.mean():.3f} ({low:.3f} to {high:.3f})"
        means = [f"{found[column].astype(float).mean():.3f}".rjust(len(shown[column])) for column in shown]
        lines.append(f"| {system!s:9} | {len(found):4} | {cell:{len(title)}} | {' | '.join(means)} |")
    return lines
