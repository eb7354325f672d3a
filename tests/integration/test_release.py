"""Tests of the release flow (`graft run`) on a real stack with a tiny model: refused, released, watched, canceled.

The tests share one stack and run in the order they are written in.

Also covers `flows/monitor.py`, `flows/release_steps/artifacts.py`,
`flows/release_steps/incumbent.py`, `flows/release_steps/publish.py` and
`flows/release_steps/step.py`.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time

import httpx
import psutil
import pytest

from deployments.stack.prefect_api import Json
from tasks.registry.registry import LocalRegistry
from tests.conftest import ROOT
from tests.support.background_users import Customers, base_url, task_states
from tests.support.prefect_stack import WATCH_EVERY_S, GraftStack, descendants, edit_yaml
from tests.support.tutorial import Tutorial, addresses

STAGES = ["base", "contract", "prepare", "embedding", "index", "evaluate_retrieval", "grounding"]
STAGES += ["train", "package", "incumbent", "evaluate", "prompt_injection", "evaluate_assistant"]
PHASES = ["shadow", "canary 5", "canary 25", "canary 50"]
SLOW = "python -c 'import time; time.sleep(600)'"


def newest(stack: GraftStack) -> Json:
    return max(stack.releases().values(), key=lambda run: run["created"])


def watch_id(stack: GraftStack) -> str:
    return str(stack.api.deployment("watch", "watch")["id"])


def nothing_changed(stack: GraftStack) -> None:
    """Wait for a run of the flow `watch` that finds nothing to announce."""
    stack.wait("a `watch` without changes", lambda: stack.watch() == "Unchanged")


def test_up_again_changes_nothing(stack: GraftStack) -> None:
    before = stack.pids()
    assert set(before) == {"prefect", "ray", "worker"}
    status, output = stack.graft("up")
    assert status == 0, output
    assert stack.pids() == before
    assert "starting" not in output
    assert "deploying" not in output


def test_schedule_plans_runs_by_itself(stack: GraftStack) -> None:
    watch = watch_id(stack)
    assert stack.wait("a finished watch run", lambda: stack.api.runs(("COMPLETED",), watch))


def test_gate_refuses_and_nothing_is_released(stack: GraftStack, refused: tuple[int, str]) -> None:
    status, output = refused
    assert status == 1, output
    assert "release ended Refused: the gate's verdict is" in output
    assert "required gain" in output
    assert stack.production() is None
    states = task_states(stack, newest(stack)["id"])
    assert list(states) == [*STAGES, "gate"]
    artifacts = {a["key"]: a["data"] for a in stack.api.artifacts(newest(stack)["id"])}
    assert artifacts["gate"].startswith("# Gate: ")
    assert artifacts["contract"].startswith("# Contract: kept")
    assert any(key.endswith("-progress") for key in artifacts)


def test_release_serves_and_prints_the_summary(stack: GraftStack, released: tuple[int, str]) -> None:
    status, output = released
    assert status == 0, output
    digest = stack.production()
    assert digest
    assert f"- model: {digest}" in output
    assert "| candidate" in output
    assert f"- base URL: {base_url(stack)}" in output
    question = {"model": "production", "messages": [{"role": "user", "content": "Where is HL-12345?"}]}
    answer = httpx.post(f"{base_url(stack)}/chat/completions", json=question, timeout=60.0).json()
    assert answer["model"] == digest
    states = task_states(stack, newest(stack)["id"])
    assert {states[name] for name in STAGES if name != "incumbent"} == {"Cached"}
    assert list(states)[len(STAGES) :] == ["gate", "publish", "deploy", "smoke", *PHASES, "promote", "reference"]
    assert LocalRegistry(stack.root / ".graft/registry").history()[-1].digest == digest
    assert f"evaluations/{digest}/card.md" in output
    artifacts = {a["key"]: a["data"] for a in stack.api.artifacts(newest(stack)["id"])}
    assert "## End-to-end evaluation" in artifacts["model-card"]


@pytest.mark.usefixtures("released")
def test_second_run_finds_everything_fresh(stack: GraftStack) -> None:
    status, output = stack.graft("run")
    assert status == 0, output
    assert f"- model: {stack.production()}" in output
    states = task_states(stack, newest(stack)["id"])
    assert set(states.values()) == {"Cached"}
    assert list(states) == [*STAGES, "deploy", "smoke", *PHASES, "promote", "reference"]


@pytest.mark.usefixtures("released")
def test_monitor_says_what_it_can_of_a_handful_of_answers(stack: GraftStack) -> None:
    status, output = stack.graft("monitor")
    assert status == 0, output
    assert "# Drift: inconclusive" in output
    assert str(stack.production()) in output
    assert list((stack.root / ".graft/reports/drift").glob("*/verdict.json"))


@pytest.mark.usefixtures("released")
def test_changed_data_leads_to_a_run_and_unchanged_data_to_none(stack: GraftStack) -> None:
    production, runs = stack.production(), stack.releases()
    nothing_changed(stack)
    assert stack.releases().keys() == runs.keys()

    changed = stack.root / "data/raw/plant_care.jsonl"
    good = changed.read_text(encoding="utf-8")
    row = {"id": "broken", "label": "plant_care", "messages": [{"role": "assistant", "content": "I speak first"}]}
    changed.write_text(good + json.dumps(row) + "\n", encoding="utf-8")
    stack.wait("a run by the flow watch", lambda: stack.watch() and len(stack.releases()) > len(runs))
    run = stack.wait("its end", lambda: stack.releases(("FAILED", "COMPLETED")).get(newest(stack)["id"]), 200)
    assert run["state_name"] == "Failed"
    assert "role_order" in run["state"]["message"]
    assert f"plant_care.jsonl:{len(good.splitlines()) + 1}" in run["state"]["message"]
    assert "prepare" not in task_states(stack, run["id"])
    assert stack.production() == production

    changed.write_text(good, encoding="utf-8")
    stack.wait("the run on repaired data", lambda: stack.watch() and len(stack.releases()) > len(runs) + 1)
    run = stack.wait("its end", lambda: stack.releases(("FAILED", "COMPLETED")).get(newest(stack)["id"]), 200)
    assert run["state_name"] == "Completed", run["state"]["message"]
    nothing_changed(stack)
    assert len(stack.releases()) == len(runs) + 2


@pytest.mark.usefixtures("released")
def test_another_package_comes_to_production_by_its_phases_and_no_request_is_lost(stack: GraftStack) -> None:
    """By the commands of the tutorial, which goes back and forward again, too."""
    before = stack.production()
    page = Tutorial(ROOT / "docs/tutorial/second-release.md", stack.root, addresses(stack), home=stack.home)
    with Customers(base_url(stack), pause_s=0.5) as customers:
        outputs = page.run()
    assert str(before) in outputs["graft status"]
    after = stack.production()
    assert after != before
    states = task_states(stack, newest(stack)["id"])
    assert (states["shadow"], states["canary 50"]) == ("Healthy", "Healthy")
    assert customers.failed == []
    assert customers.models == {before, after}
    assert customers.requests > 20
    verdicts = [a["data"] for a in stack.api.artifacts(newest(stack)["id"]) if a["key"] == "guard"]
    assert verdicts[-1].startswith("# canary 50: healthy")
    assert str(after)[:12] in outputs["graft audit"]
    moves = [switch.digest for switch in LocalRegistry(stack.root / ".graft/registry").history()]
    assert moves[-3:] == [after, before, after]


@pytest.mark.usefixtures("released")
def test_a_production_whose_files_were_changed_is_not_served_and_the_stack_stays_up(stack: GraftStack) -> None:
    digest = stack.production()
    changed = stack.root / f".graft/registry/packages/{digest}/prompt/system.txt"
    good = changed.read_text(encoding="utf-8")
    changed.write_text(good + "And say yes.\n", encoding="utf-8")
    psutil.Process(stack.pids()["ray"]).kill()
    status, output = stack.graft("up")
    assert status == 1, output
    assert f"error: {digest} is in production and cannot be served: " in output
    assert "system.txt: changed" in output
    assert all(psutil.pid_exists(stack.pids()[name]) for name in ("prefect", "ray", "worker"))
    assert "not served now" in stack.graft("status")[1]
    question = {"model": "production", "messages": [{"role": "user", "content": "Where is HL-12345?"}]}
    assert httpx.post(f"{base_url(stack)}/chat/completions", json=question, timeout=60.0).status_code == 503

    changed.write_text(good, encoding="utf-8")
    status, output = stack.graft("up")
    assert status == 0, output
    assert "not served now" not in output
    assert httpx.post(f"{base_url(stack)}/chat/completions", json=question, timeout=60.0).json()["model"] == digest


def begin_slow_run(stack: GraftStack) -> subprocess.Popen[str]:
    """`graft run` whose first stage sleeps; returns once it does."""
    edit_yaml(stack.root / "dvc.yaml", {"stages.base.cmd": SLOW})
    process = stack.start("run")
    assert process.stdout is not None
    for line in process.stdout:
        if f"> {SLOW}" in line:
            return process
    raise AssertionError("the slow stage never began")


def sleepers(stack: GraftStack) -> list[psutil.Process]:
    return [p for p in descendants(stack.pids()["worker"]) if "time.sleep(600)" in " ".join(p.cmdline())]


@pytest.mark.usefixtures("released")
def test_a_run_beside_another_is_refused_and_ctrl_c_cancels(stack: GraftStack) -> None:
    process = begin_slow_run(stack)
    runs = stack.releases()
    status, output = stack.graft("run")
    assert status == 1
    assert "is running already" in output
    assert newest(stack)["name"] in output
    assert stack.releases().keys() == runs.keys()

    stages = sleepers(stack)
    assert stages
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "release ended Cancelled" in output
    _, left = psutil.wait_procs(stages, timeout=30)
    assert not left


@pytest.mark.usefixtures("released")
def test_a_killed_worker_is_replaced_and_its_run_closed(stack: GraftStack) -> None:
    process = begin_slow_run(stack)
    before, run, stages = stack.pids(), newest(stack), sleepers(stack)
    psutil.Process(before["worker"]).kill()
    process.kill()
    status, output = stack.graft("up")
    assert status == 0, output
    assert f"worker (pid {before['worker']}) had died" in output
    after = stack.pids()
    assert {name for name in before if before[name] != after[name]} == {"worker"}
    assert stack.api.run(run["id"])["state_name"] == "Crashed"
    _, left = psutil.wait_procs(stages, timeout=5)
    assert not left


@pytest.mark.usefixtures("released")
def test_what_died_is_run_once_more_and_what_changed_while_all_was_down_is_run_once(stack: GraftStack) -> None:
    shutil.copy(ROOT / "dvc.yaml", stack.root / "dvc.yaml")  # no stage is slow now
    died = newest(stack)
    stack.wait("the run that makes up for the one that died", lambda: newest(stack)["id"] != died["id"])
    run = stack.wait("its end", lambda: stack.releases(("FAILED", "COMPLETED")).get(newest(stack)["id"]), 200)
    assert run["state_name"] == "Completed", run["state"]["message"]

    runs = stack.releases()
    for name in ("worker", "prefect"):
        psutil.Process(stack.pids()[name]).kill()
    with (stack.root / "data/raw/plant_care.jsonl").open("a", encoding="utf-8") as file:
        file.write("no row\n")
    time.sleep(2 * WATCH_EVERY_S)  # scheduled runs without a worker
    status, output = stack.graft("up")
    assert status == 0, output
    stack.wait("the run on what changed", lambda: len(stack.releases()) > len(runs))
    stack.wait("its end", lambda: newest(stack)["id"] in stack.releases(("FAILED",)), 200)
    time.sleep(2 * WATCH_EVERY_S)
    assert len(stack.releases()) == len(runs) + 1
    planned = [run["expected_start_time"] for run in stack.api.runs(("COMPLETED",), watch_id(stack))]
    assert len(planned) == len(set(planned)), "a tick ran twice"


@pytest.mark.usefixtures("released")
def test_nothing_is_written_to_the_home_folder(stack: GraftStack) -> None:
    assert list(stack.home.rglob("*")) == []


def test_down_stops_what_up_started_and_nothing_else(stack: GraftStack) -> None:
    bystander = subprocess.Popen(["sleep", "600"], cwd=stack.root)
    family = [p for pid in stack.pids().values() for p in descendants(pid)]
    try:
        status, output = stack.graft("down")
        assert status == 0, output
        stopped = [line.split()[2] for line in output.splitlines() if "stopped" in line]
        assert stopped == ["worker", "prefect", "ray"]  # the newest first: the server was started again above
        assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert bystander.poll() is None
        assert stack.pids() == {}
        assert "stack: was not running" in stack.graft("down")[1]
    finally:
        bystander.kill()
        bystander.wait()
