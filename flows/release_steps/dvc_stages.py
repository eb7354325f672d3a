"""DVC stages as Prefect tasks: one task per stage, in the order of dvc.yaml.

DVC determines which stages are stale and keeps their outputs; a task runs `dvc repro STAGE` and reports its
progress to Prefect.
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

Callback = Callable[[], None]


def run_stages(before: Mapping[str, Callable[[], bool]], after: Mapping[str, Callback]) -> None:
    """Run every stage that is stale or comes after a stale one; the others are shown as cached.

    Args:
        before: callback before the stage of that name; it returns whether it changed the stage's inputs.
        after: callback after the stage of that name ran or failed, to show its outputs.

    Raises:
        GraftError: a stage failed (the message is its own), or another DVC command runs in this repository.
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
    """Names of the stages that DVC reports as stale, without the stages after them.

    Raises:
        GraftError: `dvc status` failed.
    """
    argv = [sys.executable, "-m", "dvc", "status", "--json"]
    result = subprocess.run(argv, env=stack_environment(Path()), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise GraftError(_explain("dvc status", (result.stdout + result.stderr).splitlines()))
    return set(json.loads(result.stdout or "{}"))


def unchanged(stage: str) -> State:
    """The state of a stage that is up to date."""
    return cached(f"{stage}: unchanged")


def reproduce(stage: str) -> State | None:
    """Run `dvc repro STAGE`; its output goes to the run's log, and its progress to an artifact.

    Raises:
        GraftError: it failed; the message is the stage's own.
    """
    logger, show = get_run_logger(), Bar(stage)
    lines: list[str] = []
    with _dvc_repro(stage) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.rstrip()
            if line.strip() and not line.strip().startswith(_NOISE):
                lines.append(line)
                if not _is_unchanged_note(line):
                    logger.info(line)
                show(line)
        status = process.wait()
    if status != 0:
        raise GraftError(_explain(stage, lines))
    dvc_recovery.keep()
    skipped = [line for line in lines if f"'{stage}'" in line and _is_unchanged_note(line)]
    return cached(skipped[0]) if skipped else None


def _is_unchanged_note(line: str) -> bool:
    """Whether a line reports an unchanged stage, as DVC prints it for every stage before the requested one."""
    return any(mark in line for mark in _UNCHANGED)


@contextmanager
def _dvc_repro(stage: str) -> Iterator[subprocess.Popen[str]]:
    """DVC in a process group of its own, which ends with the block, even on an exception."""
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
    """End DVC and the stage that it runs: SIGTERM first, SIGKILL after `_GRACE_S`."""
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
    """A stage's progress lines as one progress artifact, created with the first line."""

    def __init__(self, stage: str) -> None:
        self._key = f"{stage.replace('_', '-').lower()}-progress"
        self._artifact: UUID | None = None

    def __call__(self, line: str) -> None:
        """Show a line if it is a progress line."""
        progress = parse(line)
        if progress is None:
            return
        fields: dict[str, Any] = {"progress": progress.percent, "description": line.strip()}
        if self._artifact is None:
            self._artifact = cast(UUID, create_progress_artifact(key=self._key, **fields))
        else:
            update_progress_artifact(self._artifact, **fields)


def _explain(stage: str, lines: list[str]) -> str:
    """The error message of a failed stage: its output from the last `error:` line on, without DVC's epilogue."""
    if any(mark in line for line in lines for mark in _LOCKED):
        return f"{stage}: another DVC command is running in this repository; let it finish, then run this again"
    output = [line for line in lines if not line.startswith("ERROR: failed to reproduce")]
    starts = [index for index, line in enumerate(output) if line.startswith(("error: ", "ERROR: "))]
    own = [index for index in starts if output[index].startswith("error: ")]
    first = (own or starts or [max(len(output) - 15, 0)])[-1]
    return f"{stage}: " + "\n".join(output[first:]).removeprefix("error: ").removeprefix("ERROR: ").strip()
