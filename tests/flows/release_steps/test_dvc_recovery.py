"""Tests of DVC recovery: files of DVC that a kill truncated, read by the real DVC before and after."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.release_steps import dvc_recovery
from tasks.core.errors import GraftError

pytestmark = pytest.mark.slow

STAGES = {name: {"cmd": f"echo {name} > {name}.txt", "outs": [f"{name}.txt"]} for name in ("first", "second")}


def dvc(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages that have run."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet", "."], check=True)
    assert dvc("init", "--quiet")[0] == 0
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}), encoding="utf-8")
    assert dvc("repro")[0] == 0


def test_a_list_of_those_at_work_that_was_cut_stops_dvc_no_more() -> None:
    dvc_recovery.LOCK_TABLE.write_text("", encoding="utf-8")
    status, output = dvc("status", "--json")
    assert status != 0 and "corrupted" in output
    dvc_recovery.repair()
    assert dvc("status", "--json") == (0, "{}\n")


def test_a_list_that_can_be_read_is_left_as_it_is() -> None:
    busy = {"write": {"first.txt": {"pid": 1, "cmd": "dvc repro"}}, "read": {}}
    dvc_recovery.LOCK_TABLE.write_text(json.dumps(busy), encoding="utf-8")
    dvc_recovery.repair()
    assert json.loads(dvc_recovery.LOCK_TABLE.read_text(encoding="utf-8")) == busy


@pytest.mark.parametrize("mark", ["schema", "  second:", "outs:"])
def test_a_cut_lock_file_is_what_it_was_when_it_could_last_be_read(mark: str) -> None:
    dvc_recovery.keep()
    whole = dvc_recovery.LOCK_FILE.read_text(encoding="utf-8")
    dvc_recovery.LOCK_FILE.write_text(whole[: whole.rindex(mark) + len(mark) - 1], encoding="utf-8")
    dvc_recovery.keep()  # does not keep a truncated file
    dvc_recovery.repair()
    assert dvc_recovery.LOCK_FILE.read_text(encoding="utf-8") == whole


def test_wherever_a_lock_file_is_cut_dvc_reads_it_or_it_counts_as_cut() -> None:
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    whole = dvc_recovery.LOCK_FILE.read_text(encoding="utf-8")
    repo, results = Repo(), set()
    for end in range(len(whole)):
        dvc_recovery.LOCK_FILE.write_text(whole[:end], encoding="utf-8")
        readable = dvc_recovery.is_readable(dvc_recovery.LOCK_FILE)
        results.add(readable)
        if readable:
            try:
                Lockfile(repo, str(dvc_recovery.LOCK_FILE)).load()
            except DvcException as error:  # pragma: no cover
                pytest.fail(f"cut after {end} characters: {error}")
    assert results == {True, False}


def test_without_a_readable_copy_the_error_says_how_to_restore_it() -> None:
    dvc_recovery.LOCK_FILE.write_text("schema: '2.0'\nstages:\n  first:\n    outs:\n", encoding="utf-8")
    with pytest.raises(GraftError, match="git checkout"):
        dvc_recovery.repair()
    dvc_recovery.LOCK_FILE.unlink()
    dvc_recovery.repair()
    assert not dvc_recovery.LOCK_FILE.exists()
