"""Flow `monitor`: drift detection of production against the gate's evaluation, hourly and by `graft monitor`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from deployments.stack.prefect_api import PrefectApi
from tasks.core.settings import load_settings
from tasks.monitoring.drift import DriftVerdict
from tasks.monitoring.drift import monitor as compare_window
from tasks.registry.registry import open_registry
from tasks.text.markdown import escape, row

EVENT = "graft.drift.detected"
SUMMARY = "drift-summary"


def markdown(verdict: DriftVerdict, folder: Path) -> str:
    """The verdict as a Markdown page, with its reasons and numbers."""
    lines = [f"# Drift: {verdict.outcome}", "", f"Package `{verdict.digest}`", ""]
    lines += [f"- {escape(sentence)}" for sentence in verdict.sentences]
    if verdict.columns:
        lines += ["", "| column | distance | chance explains | over | measure | reference | window |"]
        lines += ["| --- | ---: | ---: | --- | --- | ---: | ---: |"]
        lines += [
            row(
                (
                    *(c.column, f"{c.value:.3f} ({c.statistic})", f"{c.threshold:.3f}", "yes" if c.over else ""),
                    *(c.measure, f"{c.reference:.3g}", f"{c.window:.3g}"),
                )
            )
            for c in verdict.columns
        ]
    return "\n".join([*lines, "", f"Report: {folder.resolve() / 'report.html'}"]) + "\n"


@task(name="drift")
def drift() -> DriftVerdict:
    """Compare the current window with the reference, and keep the verdict as an artifact."""
    verdict, folder = compare_window(open_registry(), load_settings().drift, datetime.now(UTC))
    create_markdown_artifact(markdown(verdict, folder), key=SUMMARY, description=f"Drift: {verdict.outcome}")
    return verdict


@flow(name="monitor", log_prints=True)
def monitor() -> State:
    """Monitor production for drift; drift becomes the event `graft.drift.detected` with the package's digest."""
    if open_registry().channel() is None:
        return Completed(name="Skipped", message="no package is in production yet")
    verdict = drift()
    if verdict.outcome == "drift":
        columns = [column.column for column in verdict.columns if column.over]
        PrefectApi.of_stack().emit(EVENT, f"graft.package.{verdict.digest}", {"columns": columns, "n": verdict.n})
    return Completed(name=verdict.outcome.capitalize(), message=verdict.sentences[0])
