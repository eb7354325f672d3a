"""Steps that publish a candidate: the gate's verdict, the registry, and the reference for drift."""

from __future__ import annotations

import tempfile
from datetime import UTC, date, datetime
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.release_steps.step import cached
from tasks.core.errors import GraftError
from tasks.core.paths import (
    BUILT_BASE,
    BUILT_EVALUATE_ASSISTANT,
    BUILT_EVALUATION,
    BUILT_INDEX,
    BUILT_PACKAGE,
)
from tasks.core.settings import load_settings
from tasks.evaluation.outputs import read_outputs
from tasks.gate import verdict as gate
from tasks.monitoring.drift import reference_path, write_reference
from tasks.registry.audit_log import append_entry, run_actor
from tasks.registry.registry import Act, open_registry
from tasks.reports.release_card import gather
from tasks.retrieval import index_files


class RefusedError(GraftError):
    """The gate or a person rejected the candidate."""


def run_gate(digest: str) -> State:
    """Run the eval gate, and keep its verdict as an artifact.

    Raises:
        RefusedError: the candidate did not pass.
        GraftError: the evaluation results are another package's.
    """
    rows, rates = read_outputs(digest, BUILT_EVALUATION, BUILT_EVALUATE_ASSISTANT)
    verdict = gate.decide_gate(rows, rates, load_settings().gate)
    create_markdown_artifact(gate.markdown(verdict), key="gate", description=f"{verdict.outcome}: {digest}")
    if verdict.outcome != "pass":
        reasons = "\n".join(f"- {reason}" for reason in verdict.reasons)
        raise RefusedError(f"the gate's verdict is {verdict.outcome}; production is unchanged\n{reasons}")
    print(f"gate: pass: {verdict.reasons[0]}")
    return Completed(name="Pass", message=verdict.reasons[0])


def publish(digest: str) -> None:
    """Publish the package, its base and its evaluation to the registry, and its index to where it is served from."""
    index_files.publish(BUILT_INDEX)
    registry = open_registry()
    with tempfile.TemporaryDirectory(prefix="graft-publish-") as folder:
        evaluation = Path(folder) / "evaluation"
        gather(BUILT_PACKAGE, BUILT_EVALUATION, BUILT_EVALUATE_ASSISTANT, evaluation, load_settings().gate, today())
        registry.publish(BUILT_PACKAGE, BUILT_BASE, evaluation)
    append_entry(registry, "publish", digest, "passed the gate", by_run(), flow_run.name)
    print(f"publish: {digest}")


def by_run() -> str:
    """The author of this run's actions in the audit log."""
    return run_actor(str(flow_run.name))


def channel_act() -> Act:
    """The act with which this run moves a channel."""
    return Act(action="promote", who=by_run(), run=flow_run.name)


def keep_reference(digest: str) -> State | str:
    """Write the drift reference, with which the flow `monitor` compares production; return its path."""
    if reference_path(digest).is_file():
        return cached("the reference was written before")
    return str(write_reference(digest, open_registry()))


def today() -> date:
    return datetime.now(UTC).date()
