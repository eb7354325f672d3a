"""The DVC pipeline as Prefect tasks: one per stage, in the order of dvc.yaml.

DVC owns what is stale and what is kept; a task runs `dvc repro STAGE` and tells Prefect how it goes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from deployments.stack.environment import stack_environment
from flows.release_steps import dvc_recovery
from flows.release_steps.step import cached, step
from tasks.core.errors import GraftError
from tasks.core.progress import parse
from tasks.core.settings import read_yaml

DVC_YAML = Path("dvc.yaml")
_GRACE_S = 10.0
_NOISE = (
    "To track the changes with git",
    "git add ",
    "Use `dvc push`",
    "To enable auto staging",
    "dvc config core.auto",
)
_LOCKED = ("Unable to acquire lock", "is busy, it is being blocked by")
_UNCHANGED = ("didn't change, skipping", "is cached - skipping run")

Done = Callable[[], None]


def run_stages(before: Mapping[str, Callable[[], bool]], after: Mapping[str, Done]) -> None:
    """Run every stage that is stale or comes after a stale one; the others are shown as cached.

    Args:
        before: called before the stage of that name; says whether it changed what the stage reads.
        after: called after the stage of that name ran or failed, to show what it left.

    Raises:
        GraftError: a stage failed (the message is its own), or another DVC works here.
    """
    dvc_recovery.repair()
    changed = stale_stages()
    stale = False
    for name in read_yaml(DVC_YAML)["stages"]:
        if name in before:
            stale |= before[name]()
        stale |= name in changed
        try:
            step(name, reproduce if stale else unchanged)(name)
        finally:
            if stale and name in after:
                after[name]()


def stale_stages() -> set[str]:
    """Names of the stages that DVC calls stale by themselves.

    Raises:
        GraftError: DVC cannot say.
    """
    argv = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(argv, env=stack_environment(Path()), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GraftError(_explain("dvc status", (done.stdout + done.stderr).splitlines()))
    return set(json.loads(done.stdout or "{}"))


def unchanged(stage: str) -> State:
    """A stage that DVC found fresh."""
    return cached(f"{stage}: unchanged")


def reproduce(stage: str) -> State | None:
    """Run `dvc repro STAGE`, its lines into the run's log and its progress into an artifact.

    Raises:
        GraftError: it failed; the message is what the stage said itself.
    """
    logger, show = get_run_logger(), Bar(stage)
    lines: list[str] = []
    with _dvc_repro(stage) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.rstrip()
            if line.strip() and not line.strip().startswith(_NOISE):
                lines.append(line)
                if not _is_fresh_note(line):
                    logger.info(line)
                show(line)
        status = process.wait()
    if status != 0:
        raise GraftError(_explain(stage, lines))
    dvc_recovery.keep()
    skipped = [line for line in lines if f"'{stage}'" in line and _is_fresh_note(line)]
    return cached(skipped[0]) if skipped else None


def _is_fresh_note(line: str) -> bool:
    """DVC says so of every stage before the one that was asked for."""
    return any(mark in line for mark in _UNCHANGED)


@contextmanager
def _dvc_repro(stage: str) -> Iterator[subprocess.Popen[str]]:
    """DVC in a process group of its own, which ends with the block, however that ends."""
    environment = {**stack_environment(Path()), "GRAFT_FLOW_RUN_ID": str(flow_run.id or "")}
    if stage == "base":
        environment.pop("HF_HUB_OFFLINE")  # the one stage that may fetch a model
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", stage],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    try:
        yield process
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[str]) -> None:
    """End DVC and the stage below it, if it has not ended: asked first, then made to."""
    with suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


class Bar:
    """A stage's progress lines as one progress artifact, made when the first line comes."""

    def __init__(self, stage: str) -> None:
        self._key = f"{stage.replace('_', '-').lower()}-progress"
        self._artifact: UUID | None = None

    def __call__(self, line: str) -> None:
        """Show a line if it tells progress."""
        found = parse(line)
        if found is None:
            return
        shown: dict[str, Any] = {"progress": found.percent, "description": line.strip()}
        if self._artifact is None:
            self._artifact = cast(UUID, create_progress_artifact(key=self._key, **shown))
        else:
            update_progress_artifact(self._artifact, **shown)


def _explain(stage: str, lines: list[str]) -> str:
    """Why it failed, in its own words: from its last `error:` line on, without DVC's epilogue."""
    if any(mark in line for line in lines for mark in _LOCKED):
        return f"{stage}: another DVC command is at work in this repository; let it finish, then run this again"
    told = [line for line in lines if not line.startswith("ERROR: failed to reproduce")]
    starts = [number for number, line in enumerate(told) if line.startswith(("error: ", "ERROR: "))]
    own = [number for number in starts if told[number].startswith("error: ")]
    first = (own or starts or [max(len(told) - 15, 0)])[-1]
    return f"{stage}: " + "\n".join(told[first:]).removeprefix("error: ").removeprefix("ERROR: ").strip()
