"""The stage `prepare`: exact duplicates are dropped, near ones and groups stay together, and leakage is refused.

Also covers `tasks/data/examples.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import GraftError
from tasks.core.records import Example, Message, ToolCall, dump_messages
from tasks.core.settings import PrepareSettings
from tasks.data.examples import load_examples, save_examples
from tasks.prepare import load_rows, prepare, refuse_crossing, save

SETTINGS = PrepareSettings(seed=7, eval_fraction=0.2, test_fraction=0.1)
WORDS = [f"word{n}" for n in range(20)]


def chat(number: int, extra: str = "") -> tuple[Message, ...]:
    """A conversation unlike that of any other number below 400."""
    question = " ".join(WORDS[(number * step + step) % 20] + str(number // 20) for step in range(1, 12))
    return (Message(role="user", content=f"{question}{extra}"), Message(role="assistant", content=f"answer {number}"))


def row(number: int, messages: tuple[Message, ...] | None = None, **changes: str) -> dict[str, Any]:
    name = f"r{number}"
    return {
        "id": name,
        "label": "ab"[number % 2],
        "group": name,
        "source": f"data/raw/x.jsonl:{number + 1}",
        "messages": dump_messages(messages or chat(number)),
        "n_tokens": 9,
        "twin": name,
        **changes,
    }


def example(number: int, split: str, messages: tuple[Message, ...], group: str = "") -> Example:
    source = f"data/raw/x.jsonl:{number}"
    return Example(
        id=f"r{number}", label="a", group=group or f"r{number}", split=split, source=source, messages=messages
    )


def test_rows_become_examples_in_their_order() -> None:
    prepared = prepare([row(n) for n in range(100)], SETTINGS)
    assert [one.id for one in prepared.examples] == [f"r{n}" for n in range(100)]
    assert {name: len(prepared.split(name)) for name in ("train", "eval", "test")} == {
        "train": 70,
        "eval": 20,
        "test": 10,
    }
    assert prepared.examples[3].messages == chat(3)
    assert prepared.examples[3].source == "data/raw/x.jsonl:4"


def test_the_first_of_exact_duplicates_stays() -> None:
    copies = [row(50, chat(3)), row(51, chat(3))]
    prepared = prepare([*(row(n) for n in range(10)), *copies], SETTINGS)
    assert prepared.dropped == 2
    assert [one.id for one in prepared.examples] == [f"r{n}" for n in range(10)]


def test_near_duplicates_and_groups_are_never_split() -> None:
    rows = [row(n) for n in range(60)]
    for first in range(0, 60, 6):
        # r0 and r1 are near-duplicates, r1 and r2 one conversation group: all three belong together.
        rows[first + 1]["twin"] = rows[first]["twin"]
        rows[first + 2]["group"] = rows[first + 1]["group"]
    splits = [one.split for one in prepare(rows, SETTINGS).examples]
    assert all(len(set(splits[first : first + 3])) == 1 for first in range(0, 60, 6))
    assert set(splits) == {"train", "eval", "test"}


def test_sound_splits_pass_the_check() -> None:
    refuse_crossing(prepare([row(n) for n in range(40)], SETTINGS).examples, 0.8)


def test_the_check_catches_a_near_duplicate_across_splits() -> None:
    crossing = [example(1, "train", chat(1)), example(2, "train", chat(2)), example(3, "eval", chat(1, " please"))]
    with pytest.raises(
        GraftError, match=r"near-duplicate crosses splits: data/raw/x\.jsonl:1 is in train, .*:3 in eval"
    ):
        refuse_crossing(crossing, 0.8)


def test_the_check_catches_what_a_wrong_cluster_column_lets_through() -> None:
    rows = [row(n, chat(n // 2, " please" * (n % 2)), label="a") for n in range(40)]
    with pytest.raises(GraftError, match="near-duplicate crosses splits"):
        refuse_crossing(prepare(rows, SETTINGS).examples, 0.8)


def test_the_check_catches_a_group_across_splits() -> None:
    crossing = [example(1, "train", chat(1), "g"), example(2, "test", chat(2), "g")]
    with pytest.raises(GraftError, match=r"group g crosses splits: .*:1 is in train, .*:2 in test"):
        refuse_crossing(crossing, 0.8)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    call = ToolCall(name="find_order", arguments={"order_id": "HL-20931", "n": 2})
    messages = (Message(role="user", content="where?\n“há”"), Message(role="assistant", tool_calls=(call,)))
    prepared = prepare([*(row(n) for n in range(20)), row(20, messages)], SETTINGS)
    save(prepared, tmp_path / "examples")
    loaded = [one for name in ("train", "eval", "test") for one in load_examples(tmp_path / f"examples/{name}.parquet")]
    assert sorted(loaded, key=lambda one: int(one.id[1:])) == prepared.examples
    summary = json.loads((tmp_path / "examples/summary.json").read_text())
    assert summary["rows"] == {name: len(prepared.split(name)) for name in ("train", "eval", "test")}
    assert sum(summary["labels"]["train"].values()) == summary["rows"]["train"]


def test_the_digest_and_the_files_follow_the_content_alone(tmp_path: Path) -> None:
    def built(folder: str, settings: PrepareSettings) -> tuple[str, bytes]:
        save(prepare([row(n) for n in range(30)], settings), tmp_path / folder)
        summary = json.loads((tmp_path / folder / "summary.json").read_text())
        return summary["sha256"], (tmp_path / folder / "train.parquet").read_bytes()

    assert built("one", SETTINGS) == built("two", SETTINGS)
    assert built("one", SETTINGS)[0] != built("three", SETTINGS.model_copy(update={"seed": 8}))[0]


def test_an_empty_split_is_an_empty_file(tmp_path: Path) -> None:
    save_examples(tmp_path / "eval.parquet", [])
    assert load_examples(tmp_path / "eval.parquet") == []


def test_files_that_are_missing_empty_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="run the stage `contract` first"):
        load_rows(tmp_path / "rows.parquet")
    with pytest.raises(GraftError, match="run the stage `prepare` first"):
        load_examples(tmp_path / "train.parquet")
    (tmp_path / "rows.parquet").write_bytes(b"PAR0")
    with pytest.raises(GraftError, match="not a table of rows"):
        load_rows(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), tmp_path / "rows.parquet")
    with pytest.raises(GraftError, match="accepted no row"):
        load_rows(tmp_path / "rows.parquet")
    with pytest.raises(GraftError, match="not a table of examples"):
        load_examples(tmp_path / "rows.parquet")
