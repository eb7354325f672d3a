"""Change detection: each change of the inputs is announced once, until a run starts with it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.paths import KNOWLEDGE, PARAMS, PROMPT_INJECTION_SOURCES, PROMPTS, RAW
from tasks.monitoring.change_detection import (
    SETTLE_S,
    WATCHED,
    announced,
    remember_run,
    settled,
    unannounced,
    watched_hashes,
)

ROWS = "data/raw/rows.jsonl"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data, a prompt and articles, of one file each, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write("a")
    write("Be brief.", "system.txt", PROMPTS)
    write("# Delivery", "delivery.md", KNOWLEDGE)


def write(text: str, name: str = "rows.jsonl", folder: Path = RAW) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def look() -> list[str]:
    """One check of the flow `watch`: the paths that it announces."""
    current = watched_hashes()
    if changed := unannounced(current):
        announced(current)
    return changed


def test_the_first_look_before_any_run_is_remembered_and_announces_nothing() -> None:
    assert look() == []
    assert look() == []
    write("b")
    assert look() == [ROWS]


def test_a_change_after_a_run_is_announced_once() -> None:
    remember_run()
    assert look() == []
    write("b")
    write("c", "more.jsonl")
    assert look() == ["data/raw/more.jsonl", ROWS]
    assert look() == []


def test_a_second_change_before_a_run_began_is_announced_too() -> None:
    remember_run()
    write("b")
    assert look() == [ROWS]
    write("c")
    assert look() == [ROWS]


def test_a_removed_file_is_a_change() -> None:
    remember_run()
    (RAW / "rows.jsonl").unlink()
    assert look() == [ROWS]


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
    assert look() == [ROWS]


def test_an_announced_change_that_the_run_did_not_see_is_announced_again() -> None:
    remember_run()
    write("b")
    assert look()
    write("a")
    remember_run()
    write("b")
    assert look() == [ROWS]


def test_an_editors_hidden_file_does_not_count() -> None:
    remember_run()
    write("x", ".rows.jsonl.swp")
    assert look() == []


@pytest.mark.parametrize("before", [remember_run, look])
def test_prompts_and_articles_are_watched_as_data_is(before: Callable[[], object]) -> None:
    before()
    write("Be kind.", "system.txt", PROMPTS)
    write("# Returns", "returns.md", KNOWLEDGE)
    write("b")
    assert look() == ["data/knowledge/returns.md", "data/prompts/system.txt", ROWS]
    assert look() == []
    (KNOWLEDGE / "returns.md").unlink()
    assert look() == ["data/knowledge/returns.md"]


def test_settings_and_the_contract_are_watched_as_data_is() -> None:
    remember_run()
    write("train: {epochs: 2}", "params.yaml", Path())
    assert look() == ["params.yaml"]
    write("volume: 10", "contract.yaml", RAW.parent)
    assert look() == ["data/contract.yaml"]
    write("sources: {}", PROMPT_INJECTION_SOURCES.name, PROMPT_INJECTION_SOURCES.parent)
    assert look() == ["data/prompt_injection_sources.yaml"]
    PARAMS.unlink()
    assert look() == ["params.yaml"]


def test_what_lies_beside_the_watched_folders_does_not_count() -> None:
    remember_run()
    write("what customers asked", "asked.jsonl", RAW.parent)
    assert look() == []


@pytest.mark.parametrize("name", [ROWS, "data/prompts/system.txt", "data/knowledge/delivery.md", "params.yaml"])
def test_a_file_written_a_moment_ago_is_not_settled(name: str) -> None:
    write("{}", "params.yaml", Path())
    old = time.time() - 2 * SETTLE_S
    for file in (PARAMS, *(file for folder in (RAW, PROMPTS, KNOWLEDGE) for file in folder.iterdir())):
        os.utime(file, (old, old))
    assert settled(time.time())
    os.utime(name)
    assert not settled(time.time())


def test_without_the_folders_there_is_nothing_to_see() -> None:
    shutil.rmtree("data")
    assert watched_hashes() == {path.as_posix(): {} for path in WATCHED}
    assert settled(time.time())
