"""Release summary: the endpoint, the model id, the evaluation, and links to run, contract report and model card."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

from tasks.core.settings import GateSettings
from tasks.reports.eval_tables import by_system
from tasks.text.markdown import escape


@dataclass(frozen=True)
class ReleaseSummary:
    """The facts of a package in production."""

    name: str
    """Name of the package."""
    digest: str
    """Digest of the package, which is its model id."""
    since: datetime
    """When it went to production; UTC."""
    base_url: str
    """Base URL for OpenAI clients."""
    key: str
    """API key to use, as text for a person."""
    run_url: str
    """Page of the release run in Prefect."""
    report: Path
    """Report of the data contract."""
    card: Path
    """Release card: the model card with evaluation."""


def render(facts: ReleaseSummary, rows: pd.DataFrame, settings: GateSettings) -> str:
    """The summary, readable as plain text and as Markdown.

    Args:
        facts: the package in production.
        rows: the package's evaluation rows, one per (system, example).
        settings: confidence and bootstrap of the intervals.
    """
    lines = [
        f"# {escape(facts.name)} is in production",
        "",
        f"- base URL: {facts.base_url}",
        f"- API key: {facts.key}",
        f"- model: {facts.digest} (or: production)",
        f"- in production since: {facts.since:%Y-%m-%d %H:%M} UTC",
        "",
        *by_system(rows, settings),
        "",
        f"- run: {facts.run_url}",
        f"- contract report: {facts.report}",
        f"- model card: {facts.card}",
    ]
    return "\n".join(lines) + "\n"
