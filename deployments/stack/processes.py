"""Background processes that outlive the command that started them, and how to stop exactly those.

Each one leads a session of its own and has a record in `.graft/run/NAME.json` with its pid and
its start time as the kernel reports it. A pid alone is reused; pid and start time together identify a process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.core.errors import GraftError
from tasks.core.files import write_json
from tasks.core.paths import LOGS, RUN
from tasks.core.progress import duration

_SAME_START_S = 0.02  # the kernel counts a process's start in hundredths of a second


@dataclass(frozen=True)
class ProcessRecord:
    """The record of a started process, which may have ended since."""

    name: str
    """Name of the process."""
    pid: int
    """Its pid, which is also the id of its session."""
    created: float
    """Start time by the kernel, in seconds since the epoch."""
    argv: tuple[str, ...]
    """Command line."""
    path: Path
    """File of the record."""

    def process(self) -> psutil.Process | None:
        """The process, or None where it has ended (even if another has its pid by now)."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) < _SAME_START_S and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def records(root: Path) -> list[ProcessRecord]:
    """The records of processes that were started and not stopped, oldest first; the process may have died."""
    result = []
    for path in (root / RUN).glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        result.append(ProcessRecord(path.stem, content["pid"], content["created"], tuple(content["argv"]), path))
    return sorted(result, key=lambda r: r.created)


def log_path(root: Path, name: str) -> Path:
    """The log file of a process's output."""
    return root / LOGS / f"{name}.log"


def start(name: str, argv: Sequence[str], environment: Mapping[str, str], root: Path) -> ProcessRecord:
    """Start a process in a session of its own, with default signals, and write its record.

    Its output is appended to `.graft/logs/NAME.log`.

    Args:
        name: name of the record and the log.
        argv: command line.
        environment: all environment variables of the process.
        root: working directory.
    """
    log = log_path(root, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            argv,
            cwd=root,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_default_signals,
        )
    created = psutil.Process(child.pid).create_time()
    record = ProcessRecord(name, child.pid, created, tuple(argv), root / RUN / f"{name}.json")
    write_json(record.path, {"pid": record.pid, "created": record.created, "argv": list(record.argv)})
    return record


def _default_signals() -> None:
    """Reset signals: a shell's background job ignores SIGINT, and a worker that inherits that never ends on SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def stop(record: ProcessRecord, timeout_s: float) -> bool:
    """End a recorded process with all processes that it started, and delete its record.

    They get SIGTERM, and SIGKILL after `timeout_s` seconds. No other process is signaled.

    Returns:
        Whether any of them was still running.
    """
    family = _family(record)
    # All get the signal together: a worker that gets it alone waits for its flow runs to finish.
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(family, timeout=timeout_s)
    left = [*left, *_family(record)]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=timeout_s)
    record.path.unlink(missing_ok=True)
    return bool(family)


def _family(record: ProcessRecord) -> list[psutil.Process]:
    """The running process, its descendants, and orphans of its session.

    While a session has a member, its id is not reused as a pid, so another running process with the
    recorded pid means that no process of the session is left.
    """
    leader = record.process()
    if leader is None and _is_alive(record.pid):
        return []
    family = {p.pid: p for p in psutil.process_iter() if _session(p.pid) == record.pid}
    if leader:
        with suppress(psutil.NoSuchProcess):
            family |= {p.pid: p for p in (leader, *leader.children(recursive=True))}
    return [p for p in family.values() if _is_alive(p.pid)]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def wait_ready(record: ProcessRecord, ready: Callable[[], bool], timeout_s: float, root: Path) -> None:
    """Wait until a started process answers.

    Args:
        record: the process.
        ready: whether it answers.
        timeout_s: how long to wait, in seconds.
        root: working directory, which has the log.

    Raises:
        GraftError: it ended, or did not answer in time; the message has its last log lines.
    """
    began = time.monotonic()
    while not ready():
        gone = record.process() is None
        if gone or time.monotonic() - began > timeout_s:
            problem = "ended during startup" if gone else f"did not answer within {duration(timeout_s)}"
            log = log_path(root, record.name)
            raise GraftError(f"{record.name} {problem}; the end of {log.relative_to(root)}:\n{tail(log)}")
        time.sleep(0.3)


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, indented."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])
