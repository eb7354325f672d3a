"""Tests of the DVC stages: a throw-away DVC project with real stages, as a Prefect flow against the real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
import yaml

from deployments.stack.environment import stack_environment
from tests.conftest import ROOT
from tests.support.prefect_stack import GraftStack

FLOW = """
from prefect import flow
from flows.release_steps.dvc_stages import run_stages
from flows.release_steps.step import step
from tasks.core.errors import GraftError
from prefect.states import Failed

@flow(name="throw-away", log_prints=True)
def walk():
    try:
        run_stages(before={}, after={"second": lambda: print("after second")})
    except GraftError as error:
        return Failed(message=str(error))

state = walk(return_state=True)
print("STATE", state.name, state.message)
"""
STAGES = {
    "first": "python first.py",
    "second": "python second.py",
    "third": "python -c \"open('third.txt', 'w').write(open('second.txt').read())\"",
}
FIRST = """
from tasks.core.progress import Progress
bar = Progress("first", 2, "rows", "rows", every_s=0.0)
for n in (1, 2):
    bar.update(n, n)
open("first.txt", "w").write(open("in.txt").read())
"""
SECOND = "open('second.txt', 'w').write(open('first.txt').read() + '!')"
BROKEN = "import sys; open('first.txt'); print('error: row 3 is upside down\\n  turn it', file=sys.stderr); sys.exit(1)"
SLOW = "import time; open('first.txt'); time.sleep(600)"


@pytest.fixture
def project(tmp_path: Path, stack: GraftStack) -> Path:
    """A DVC project with three stages in a row, which report to the session's server."""
    folder = tmp_path / "project"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", "."], cwd=folder, check=True)
    for name in ("deployments/stack.yaml", "deployments/serve.yaml", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(stack.root / name, folder / name)
    outs = {"first": "in.txt", "second": "first.txt", "third": "second.txt"}
    stages = {
        name: {"cmd": cmd, "deps": [outs[name], *([f"{name}.py"] if name != "third" else [])], "outs": [f"{name}.txt"]}
        for name, cmd in STAGES.items()
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf-8")
    (folder / "walk.py").write_text(dedent(FLOW), encoding="utf-8")
    (folder / "first.py").write_text(FIRST, encoding="utf-8")
    (folder / "second.py").write_text(SECOND, encoding="utf-8")
    (folder / "in.txt").write_text("1", encoding="utf-8")
    return folder


def begin(project: Path, stack: GraftStack) -> subprocess.Popen[str]:
    prefect = {name: value for name, value in stack_environment(stack.root).items() if name.startswith("PREFECT_")}
    environment = {**os.environ, **prefect, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(project / ".graft/prefect")}
    return subprocess.Popen(
        [sys.executable, "walk.py"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def walk(project: Path, stack: GraftStack) -> str:
    """The output of the flow, run to its end."""
    output, _ = begin(project, stack).communicate(timeout=200)
    return output


def last_tasks(stack: GraftStack) -> dict[str, str]:
    """State names of the last throw-away run's tasks, in the order they began."""
    client = stack.prefect
    flows = {"flows": {"name": {"any_": ["throw-away"]}}, "sort": "START_TIME_DESC", "limit": 1}
    run = client.post("/flow_runs/filter", json=flows).json()[0]
    tasks = client.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}}).json()
    return {task["name"]: task["state_name"] for task in sorted(tasks, key=lambda t: t["start_time"])}


def test_stages_run_in_order_then_are_cached_and_only_what_follows_a_change_runs(
    project: Path, stack: GraftStack
) -> None:
    output = walk(project, stack)
    assert "STATE Completed" in output
    assert list(last_tasks(stack).items()) == [(name, "Completed") for name in STAGES]
    assert "after second" in output
    bars = stack.prefect.post("/artifacts/filter", json={"artifacts": {"key": {"like_": "first-pro"}}})
    assert bars.json()[0]["data"] == 100.0
    assert bars.json()[0]["description"].startswith("first: 2/2 rows")

    output = walk(project, stack)
    assert list(last_tasks(stack).items()) == [(name, "Cached") for name in STAGES]
    assert "after second" not in output

    (project / "second.py").write_text(SECOND + "  # the same result", encoding="utf-8")
    walk(project, stack)
    assert last_tasks(stack) == {"first": "Cached", "second": "Completed", "third": "Cached"}


def test_a_failing_stage_ends_the_run_with_its_own_message(project: Path, stack: GraftStack) -> None:
    (project / "second.py").write_text(BROKEN, encoding="utf-8")
    output = walk(project, stack)
    assert "STATE Failed second: row 3 is upside down\n  turn it\n" in output
    assert last_tasks(stack) == {"first": "Completed", "second": "Failed"}
    assert "after second" in output


def test_a_terminated_run_ends_the_stage_too_and_another_dvc_is_named(project: Path, stack: GraftStack) -> None:
    (project / "second.py").write_text(SLOW, encoding="utf-8")
    process = begin(project, stack)
    assert process.stdout is not None
    try:
        assert any("> python second.py" in line for line in process.stdout)
        output = walk(project, stack)
        assert "STATE Failed" in output
        assert "another DVC command is running" in output
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("second.py" in " ".join(child.cmdline()) for child in family)
    finally:
        process.terminate()
    process.communicate(timeout=60)
    _, left = psutil.wait_procs(family, timeout=10)
    assert not left
