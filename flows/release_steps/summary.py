"""What a person wants to know after a release: where it answers, as what, how good it is, where to look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

from tasks.core.settings import GateSettings
from tasks.reports.eval_tables import by_system


@dataclass(frozen=True)
class ReleaseSummary:
    """A package in production."""

    name: str
    digest: str
    since: datetime
    base_url: str
    key: str
    run_url: str
    report: Path
    card: Path


def render(released: ReleaseSummary, rows: pd.DataFrame, settings: GateSettings) -> str:
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
        *by_system(rows, settings),
        "",
        f"- run: {released.run_url}",
        f"- contract report: {released.report}",
        f"- model card: {released.card}",
    ]
    return "\n".join(lines) + "\n"
