"""Tests of kill -9 in every phase of a release: production stays one whole package, and the next run completes.

Another test stalls a canary: production answers its users, and canary analysis rolls it back.

`make bench-release` runs these tests, and reads the counts from the file of the variable GRAFT_FAULTS.

Also covers `flows/release_steps/approval.py`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from deployments.stack.prefect_api import Json
from tasks.core.files import write_json
from tasks.model_package.manifest import package_digest
from tasks.registry.registry import LocalRegistry
from tests.support.background_users import Customers, base_url, quick_rollout, task_states
from tests.support.prefect_stack import GraftStack, descendants, edit_yaml

pytestmark = pytest.mark.faults
VICTIMS = ("worker", "prefect", "ray", "run")
PHASES = ("evaluate", "deploy", "shadow", "canary 50", "approval", "promote")
"""`promote` is the moment between channel and endpoint: the channel names the candidate already."""
LIMIT_S = 400.0


@pytest.fixture(scope="module")
def counts() -> Iterator[dict[str, float]]:
    """Counts by name, which are written to the file of the variable GRAFT_FAULTS."""
    counts: dict[str, float] = {"faults_injected": 0, "faults_survived": 0}
    yield counts
    if path := os.environ.get("GRAFT_FAULTS"):
        write_json(Path(path), counts)


def newest(stack: GraftStack) -> Json:
    return max(stack.releases().values(), key=lambda run: run["created"])


def new_candidate(stack: GraftStack, name: str) -> None:
    """Change the constraint sheet, and so the package, with the same weights."""
    edit_yaml(stack.root / "params.yaml", {"package.intended_use": f"To be released in spite of: {name}."})


def arrived(stack: GraftStack, before: set[str], phase: str) -> str | None:
    """The run that is in this phase and not among `before`; a run by the flow `watch` may wait beside it."""
    for run in stack.releases(("PAUSED",) if phase == "approval" else ("RUNNING",)):
        if run not in before and (phase == "approval" or task_states(stack, run).get(phase) == "Running"):
            return run
    return None


def reach(stack: GraftStack, before: set[str], phase: str) -> str:
    """Wait until a run that is not among `before` is in this phase; return its id."""
    if phase != "promote":
        return str(stack.wait(f"a run in {phase}", lambda: arrived(stack, before, phase), LIMIT_S))
    run = reach(stack, before, "approval")
    production, deadline = stack.production(), time.monotonic() + LIMIT_S
    approve(stack)
    while stack.production() == production:  # without a pause: the moment is short
        assert time.monotonic() < deadline, f"the channel was not moved within {LIMIT_S} s"
    return run


def approve(stack: GraftStack) -> None:
    """Approve the runs that wait for approval."""
    decision = {"approve": True, "by": "Ada", "reason": "after a fault"}
    for run in stack.releases(("PAUSED",)):
        stack.prefect.post(f"/flow_runs/{run}/resume", json={"run_input": decision})


def victim(stack: GraftStack, name: str, run: str) -> psutil.Process:
    """A process of the stack, or the process of a release run."""
    if name != "run":
        return psutil.Process(stack.pids()[name])
    engines = [p for p in descendants(stack.pids()["worker"]) if "prefect.engine" in " ".join(p.cmdline())]
    flows = [p for p in engines if run in p.environ().get("PREFECT__FLOW_RUN_ID", "")]
    assert len(flows) == 1, engines
    return flows[0]


def require_whole(stack: GraftStack, either: set[str | None]) -> str:
    """Check that the channel names one of these packages, and that its files are complete; return its digest."""
    digest = stack.production()
    assert digest in either
    assert digest is not None
    LocalRegistry(stack.root / ".graft/registry").verify(digest)
    return digest


def finish(stack: GraftStack) -> None:
    """Complete the release: the run that the flow `watch` triggered, or one that is started here."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        approve(stack)
        if not stack.releases(("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")):
            if newest(stack)["state_type"] == "COMPLETED":
                return
            stack.start("run")
        time.sleep(3)
    pytest.fail(f"no run completed within {LIMIT_S} s; the newest: {newest(stack)['state']}")


@pytest.mark.usefixtures("released")
def test_no_request_is_lost_in_any_phase_and_production_goes_back_in_seconds(
    stack: GraftStack, counts: dict[str, float]
) -> None:
    quick_rollout(stack)
    before = stack.production()
    new_candidate(stack, "load")
    with Customers(base_url(stack)) as customers:
        stack.start("run")
        stack.wait("a run that waits for a person", lambda: stack.releases(("PAUSED",)), LIMIT_S)
        finish(stack)
        start = time.monotonic()
        status, output = stack.graft("rollback", "--reason", "measured")
        counts["rollback_seconds"] = round(time.monotonic() - start, 1)
        assert status == 0, output
    assert stack.production() == before
    counts |= {"requests": customers.requests, "failed_requests": len(customers.failed)}
    assert customers.failed == []


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", VICTIMS)
@pytest.mark.usefixtures("released")
def test_a_part_that_is_killed_leaves_one_whole_package_and_the_next_run_finishes(
    stack: GraftStack, counts: dict[str, float], name: str, phase: str
) -> None:
    finish(stack)  # a run that an earlier test or the flow `watch` may have left
    quick_rollout(stack)
    before, runs = stack.production(), set(stack.releases())
    new_candidate(stack, f"{name} killed in {phase}")
    process = stack.start("run")
    with Customers(base_url(stack), pause_s=0.3):  # without traffic the phases would be skipped
        run = reach(stack, runs, phase)
        victim(stack, name, run).kill()
        counts["faults_injected"] += 1
        either = {before} if phase != "promote" else {before, package_digest(stack.root / "build/package")}
        require_whole(stack, either)
        process.kill()
        status, output = stack.graft("up")
        assert status == 0, output
        require_whole(stack, either)
        finish(stack)
    candidate = json.loads((stack.root / "build/package/provenance.json").read_text(encoding="utf-8"))
    assert candidate["flow_run_id"]
    after = stack.production()
    assert after != before
    served = httpx.get(f"{base_url(stack).removesuffix('/v1')}/healthz").json()
    assert (served["production"], served["canary"], served["shadow"]) == (
        require_whole(stack, {after}),
        None,
        None,
    )
    counts["faults_survived"] += 1


def engine_processes(stack: GraftStack, digest: str) -> list[psutil.Process]:
    """The processes of a served package's engine, those that it started first."""
    replicas = [p for p in descendants(stack.pids()["ray"]) if f":engine-{digest[:12]}:" in " ".join(p.cmdline())]
    assert replicas, digest
    return [process for replica in replicas for process in reversed(descendants(replica.pid))]


@pytest.mark.usefixtures("released")
def test_a_canary_that_stalls_is_rolled_back_by_canary_analysis_and_every_user_is_answered(
    stack: GraftStack, counts: dict[str, float]
) -> None:
    finish(stack)
    quick_rollout(stack)
    edit_yaml(stack.root / "params.yaml", {"canary_analysis.margins.errors": 0.2})
    before, runs = stack.production(), set(stack.releases())
    new_candidate(stack, "stalled canary")
    with Customers(base_url(stack), concurrency=4, pause_s=0.3) as customers:
        stack.start("run")
        run = reach(stack, runs, "canary 50")
        for process in engine_processes(stack, package_digest(stack.root / "build/package")):
            process.suspend()
        counts["faults_injected"] += 1
        stack.wait("the end of the run", lambda: stack.releases(("FAILED",)).get(run), LIMIT_S)
    assert stack.releases()[run]["state_name"] == "RolledBack"
    assert require_whole(stack, {before})
    status, output = stack.graft("incidents")
    assert status == 0 and "failed requests" in output
    assert customers.failed == []
    counts["faults_survived"] += 1
