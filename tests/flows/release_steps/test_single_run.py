"""Real processes that want the same turn."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.release_steps.single_run import single_run
from tests.conftest import ROOT

WAITER = """
import sys
sys.path.insert(0, sys.argv[1])
from flows.release_steps.single_run import turn
print("waits", flush=True)
with turn("release") as mine:
    print("mine" if mine else "skipped", flush=True)
    sys.stdin.read()
"""


def waiter(folder: Path) -> subprocess.Popen[str]:
    """A process that wants the turn, and keeps it until its input ends."""
    argv = [sys.executable, "-c", WAITER, str(ROOT)]
    process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_has_the_turn_one_waits_and_a_third_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with single_run("release") as mine:
        assert mine
        waiting, others = waiter(tmp_path), []
        while not others or said(others[-1]) != "skipped":  # until the first of them has come to wait
            others.append(waiter(tmp_path))
            assert len(others) < 3
    assert said(waiting) == "mine"
    for process in (waiting, *others):
        process.communicate("")
        assert process.returncode == 0


def test_a_killed_process_leaves_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = waiter(tmp_path)
    assert said(first) == "mine"
    first.send_signal(signal.SIGKILL)
    first.wait()
    with single_run("release") as mine:
        assert mine
