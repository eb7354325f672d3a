"""Tests of the single-run lock with real processes that want the same lock."""

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
from flows.release_steps.single_run import single_run
print("waits", flush=True)
with single_run("release") as acquired:
    print("acquired" if acquired else "skipped", flush=True)
    sys.stdin.read()
"""


def waiter(folder: Path) -> subprocess.Popen[str]:
    """A process that waits for the lock, and holds it until its input ends."""
    argv = [sys.executable, "-c", WAITER, str(ROOT)]
    process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    return process


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_has_the_lock_one_waits_and_a_third_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with single_run("release") as acquired:
        assert acquired
        waiting, others = waiter(tmp_path), []
        while not others or next_line(others[-1]) != "skipped":  # until the first process waits for the lock
            others.append(waiter(tmp_path))
            assert len(others) < 3
    assert next_line(waiting) == "acquired"
    for process in (waiting, *others):
        process.communicate("")
        assert process.returncode == 0


def test_a_killed_process_leaves_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = waiter(tmp_path)
    assert next_line(first) == "acquired"
    first.send_signal(signal.SIGKILL)
    first.wait()
    with single_run("release") as acquired:
        assert acquired
