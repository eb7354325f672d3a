from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tasks.inputs import SETTLE_S, announced, raw_hashes, remember_run, settled, unannounced
from tasks.layout import RAW


@pytest.fixture(autouse=True)
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `data/raw` with one file, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write("a")
    return tmp_path / RAW


def write(text: str, name: str = "rows.jsonl") -> None:
    (RAW / name).parent.mkdir(parents=True, exist_ok=True)
    (RAW / name).write_text(text, encoding="utf-8")


def look() -> list[str]:
    """One tick of the watch: what it announces."""
    raw = raw_hashes()
    if changed := unannounced(raw):
        announced(raw)
    return changed


def test_the_first_look_before_any_run_is_remembered_and_announces_nothing() -> None:
    assert look() == []
    assert look() == []
    write("b")
    assert look() == ["rows.jsonl"]


def test_a_change_after_a_run_is_announced_once() -> None:
    remember_run()
    assert look() == []
    write("b")
    write("c", "more.jsonl")
    assert look() == ["more.jsonl", "rows.jsonl"]
    assert look() == []


def test_a_second_change_before_a_run_began_is_announced_too() -> None:
    remember_run()
    write("b")
    assert look() == ["rows.jsonl"]
    write("c")
    assert look() == ["rows.jsonl"]


def test_a_removed_file_is_a_change() -> None:
    remember_run()
    (RAW / "rows.jsonl").unlink()
    assert look() == ["rows.jsonl"]


def test_a_failed_run_is_not_repeated_on_the_same_data() -> None:
    remember_run()
    write("broken")
    assert look()
    remember_run()  # the run that the announcement led to
    assert look() == []


def test_a_change_that_was_taken_back_and_made_again_is_announced_again() -> None:
    remember_run()
    write("b")
    assert look()
    write("a")
    assert look() == []
    write("b")
    assert look() == ["rows.jsonl"]


def test_an_announced_change_that_the_run_did_not_see_is_announced_again() -> None:
    remember_run()
    write("b")
    assert look()
    write("a")
    remember_run()
    write("b")
    assert look() == ["rows.jsonl"]


def test_an_editors_hidden_file_does_not_count() -> None:
    remember_run()
    write("x", ".rows.jsonl.swp")
    assert look() == []


def test_a_file_written_a_moment_ago_is_not_settled() -> None:
    assert not settled(time.time())
    old = time.time() - 2 * SETTLE_S
    os.utime(RAW / "rows.jsonl", (old, old))
    assert settled(time.time())


def test_without_a_data_folder_there_is_nothing_to_see(raw: Path) -> None:
    for file in raw.iterdir():
        file.unlink()
    raw.rmdir()
    assert raw_hashes() == {}
    assert settled(time.time())
