"""Tests of background processes with real ones: only those that were started are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deployments.stack.processes import ProcessRecord, records, start, stop, wait_ready
from tasks.core.errors import GraftError
from tasks.core.files import write_json

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
FAMILY = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); print('ready', flush=True); time.sleep(600)",
]


def wait(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.05)


def begin_family(root: Path) -> tuple[ProcessRecord, psutil.Process]:
    """A recorded process and the child it started."""
    record = start("family", FAMILY, os.environ, root)
    leader = psutil.Process(record.pid)
    wait(leader.children)
    return record, leader.children()[0]


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_stop_ends_a_process_and_its_children_and_forgets_it(tmp_path: Path) -> None:
    record, child = begin_family(tmp_path)
    assert records(tmp_path) == [record]
    assert stop(record, 10.0)
    assert ended(child)
    assert record.process() is None
    assert records(tmp_path) == []


def test_stop_ends_the_orphans_of_a_killed_process(tmp_path: Path) -> None:
    record, child = begin_family(tmp_path)
    os.kill(record.pid, signal.SIGKILL)
    wait(lambda: record.process() is None)
    assert not ended(child)
    assert stop(record, 10.0)
    assert ended(child)


def test_stop_makes_a_process_end_that_does_not_listen(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    record = start("deaf", [sys.executable, "-c", deaf], os.environ, tmp_path)
    wait(lambda: "deaf" in (tmp_path / ".graft/logs/deaf.log").read_text(encoding="utf-8"))
    assert stop(record, 0.5)
    assert record.process() is None


def test_a_record_whose_pid_is_another_process_by_now_is_stale(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP, start_new_session=True) as stranger:
        try:
            path = tmp_path / ".graft/run/worker.json"
            write_json(path, {"pid": stranger.pid, "created": 1.0, "argv": SLEEP})
            (record,) = records(tmp_path)
            assert record.process() is None
            assert not stop(record, 1.0)
            assert stranger.poll() is None
            assert not path.exists()
        finally:
            stranger.kill()


def test_children_start_with_default_signals(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        show = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)"
        record = start("shown", [sys.executable, "-c", show], os.environ, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    log = tmp_path / ".graft/logs/shown.log"
    wait(lambda: log.read_text(encoding="utf-8").strip())
    assert log.read_text(encoding="utf-8").strip() == "True"
    stop(record, 1.0)


def test_a_process_that_ends_during_startup_is_reported_with_its_last_words(tmp_path: Path) -> None:
    record = start("brief", [sys.executable, "-c", "import sys; sys.exit('no disk left')"], os.environ, tmp_path)
    with pytest.raises(GraftError, match=r"(?s)brief ended during startup.*brief\.log.*no disk left"):
        wait_ready(record, lambda: False, 30.0, tmp_path)
    stop(record, 1.0)


def test_a_process_that_never_answers_is_reported(tmp_path: Path) -> None:
    record = start("mute", SLEEP, os.environ, tmp_path)
    try:
        with pytest.raises(GraftError, match="mute did not answer within 0 s"):
            wait_ready(record, lambda: False, 0.1, tmp_path)
    finally:
        stop(record, 5.0)
