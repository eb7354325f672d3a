"""Publishing a candidate: the gate's verdict, the registry, and the reference for drift."""

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
    """The gate, or a person, did not let the candidate pass."""


def run_gate(digest: str) -> State:
    """The gate; the verdict becomes an artifact.

    Raises:
        RefusedError: it did not pass.
        GraftError: what was measured is another package's.
    """
    rows, rates = read_outputs(digest, BUILT_EVALUATION, BUILT_EVALUATE_ASSISTANT)
    verdict = gate.decide_gate(rows, rates, load_settings().gate)
    create_markdown_artifact(gate.markdown(verdict), key="gate", description=f"{verdict.outcome}: {digest}")
    if verdict.outcome != "pass":
        reasons = "\n".join(f"- {reason}" for reason in verdict.reasons)
        raise RefusedError(f"the gate's verdict is {verdict.outcome}; production is unchanged\n{reasons}")
    return Completed(name="Pass", message=verdict.reasons[0])


def publish(digest: str) -> None:
    """Put the package, its base and what was measured into the registry, and its index where it is served from."""
    index_files.publish(BUILT_INDEX)
    registry = open_registry()
    with tempfile.TemporaryDirectory(prefix="graft-publish-") as folder:
        measured = Path(folder) / "measured"
        gather(BUILT_PACKAGE, BUILT_EVALUATION, BUILT_EVALUATE_ASSISTANT, measured, load_settings().gate, _today())
        registry.publish(BUILT_PACKAGE, BUILT_BASE, measured)
    append_entry(registry, "publish", digest, "passed the gate", by_run(), flow_run.name)
    print(f"publish: {digest}")


def by_run() -> str:
    """Who acts: this run."""
    return run_actor(str(flow_run.name))


def channel_act() -> Act:
    """How this run moves a channel."""
    return Act(action="promote", who=by_run(), run=flow_run.name)


def keep_reference(digest: str) -> State | str:
    """Write what `monitor` compares production with; return where."""
    if reference_path(digest).is_file():
        return cached("written before")
    return str(write_reference(digest, open_registry()))


def _today() -> date:
    return datetime.now(UTC).date()
