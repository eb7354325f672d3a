"""`graft data add`: what is added passes the contract, and a refusal leaves every byte where it was.

Also covers `tasks/data/contract_draft.py`.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from datetime import date
from pathlib import Path

import pytest
import yaml

from tasks.core.errors import GraftError
from tasks.core.files import sha256_tree, write_text
from tasks.core.paths import BUILT_BASE, CONTRACT, KNOWLEDGE, PROMPTS, QUERY_EXPANSIONS, RAW
from tasks.core.settings import load_settings
from tasks.data.contract_check import check_contract
from tasks.data.contract_spec import load_contract
from tasks.data.importer import add, replace_data
from tasks.data.raw_rows import read_folder
from tasks.prepare import prepare
from tasks.prompt.encoding import Prompt
from tasks.prompt.template import PromptSource
from tests.conftest import ROOT, make_tokenizer
from tests.support.raw_rows import CONTRACT_CONTENT, Row, call, say, sound_rows, write_rows

BANKING = Path(os.environ.get("GRAFT_BANKING77", ROOT.parent / "shared/data/banking77/train.csv"))


@pytest.fixture
def shop(tmp_path: Path, tiny_prompts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's data with twelve rows, as the working directory."""
    root = tmp_path / "shop"
    write_rows(root / RAW / "chats.jsonl", sound_rows())
    shutil.copytree(tiny_prompts, root / PROMPTS)
    (root / KNOWLEDGE / "old").mkdir(parents=True)
    (root / KNOWLEDGE / ".gitkeep").touch()
    (root / KNOWLEDGE / "old/hours.md").write_text("We close at four.\n", encoding="utf-8")
    write_text(root / QUERY_EXPANSIONS, '{"article": "old/hours.md", "heading": "hours", "asked": ["open?"]}\n')
    shutil.copy(ROOT / "params.yaml", root)
    content = CONTRACT_CONTENT | {"updated": date.today()}
    (root / CONTRACT).write_text(yaml.safe_dump(content), encoding="utf-8")
    (root / BUILT_BASE).mkdir(parents=True)
    make_tokenizer().save(str(root / BUILT_BASE / "tokenizer.json"))
    monkeypatch.chdir(root)
    return root


def import_file(folder: Path, rows: list[Row], name: str = "more.jsonl") -> Path:
    return write_rows(folder.parent / name, rows)


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "kind"), *rows])
    return path


def recheck() -> list[str]:
    """The rules that the data on disk breaks or warns of, by the contract and prompt on disk."""
    prompt, settings = Prompt.load(PROMPTS, BUILT_BASE), load_settings()
    checked = check_contract(read_folder(RAW), load_contract(CONTRACT), prompt, settings.contract, date.today())
    prepare(checked.rows.to_dict("records"), settings.prepare)
    assert not checked.broken
    return [result.rule for result in checked.warnings]


def test_rows_are_added_beside_those_that_are_there(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sha256_tree(shop / "data")
    file = import_file(
        shop, [say("do you deliver logs for the fire", "By the barrow load."), call("HL-70707 ?", "HL-70707")]
    )
    added = add(file)
    assert added.path == RAW / "more.jsonl"
    assert "2 rows" in capsys.readouterr().out
    after = sha256_tree(shop / "data")
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"raw/more.jsonl"}
    rows = {line.row.id: line.row for line in read_folder(RAW) if line.row}
    assert rows["more:2"].messages[1].tool_calls[0].arguments == {"order_id": "HL-70707"}
    assert recheck() == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([say("do you deliver logs for the fire", "By the barrow.", "logs")], r"more\.jsonl:1  label 'logs' is not"),
        ([{"messages": say("do you deliver logs", "By the barrow.")["messages"]}], r"more\.jsonl:1  no label"),
        ([sound_rows()[2]], r"more\.jsonl:1  repeats data/raw/chats\.jsonl:3"),
        ([say("ring 020 7946 0958 when it is here", "We will.")], r"more\.jsonl:1  turn 1: telephone number"),
    ],
)
def test_a_refused_file_changes_nothing(shop: Path, rows: list[Row], message: str) -> None:
    before = sha256_tree(shop)
    with pytest.raises(GraftError, match=message) as caught:
        add(import_file(shop, rows))
    assert "nothing was changed" in str(caught.value)
    assert sha256_tree(shop) == before


def test_a_refused_replacement_changes_nothing(shop: Path) -> None:
    before = sha256_tree(shop)
    file = write_table(shop.parent / "faq.csv", [("is it open", "yes"), ("mail jo@example.org for it", "yes")])
    with pytest.raises(GraftError, match=r"faq\.csv:3  turn 1: email address"):
        add(file, input_column="text", target_column="kind", replace=True)
    assert sha256_tree(shop) == before


def test_a_file_of_the_same_name_is_not_overwritten(shop: Path) -> None:
    with pytest.raises(GraftError, match=r"data/raw/chats\.jsonl: already there"):
        add(import_file(shop, [say("do you deliver logs", "By the barrow load.")], "chats.jsonl"))


def test_the_base_must_be_there(shop: Path) -> None:
    (shop / BUILT_BASE / "tokenizer.json").unlink()
    with pytest.raises(GraftError, match=r"graft run.*dvc repro base"):
        add(import_file(shop, [say("do you deliver logs", "By the barrow load.")]))


def test_a_system_text_becomes_each_rows_own_unless_it_replaces(shop: Path) -> None:
    add(import_file(shop, [say("do you deliver logs for the fire", "By the barrow load.")]), system="You sell logs.")
    (row,) = [line.row for line in read_folder(RAW) if line.row and line.row.id == "more:1"]
    assert [(m.role, m.content) for m in row.messages[:1]] == [("system", "You sell logs.")]
    with pytest.raises(GraftError, match=r"chats\.jsonl|more\.jsonl:1: the row brings its own system turn"):
        add(shop / RAW / "more.jsonl", system="You sell coal.", replace=True)


def test_replacing_brings_a_contract_and_a_prompt_and_keeps_the_old(shop: Path) -> None:
    before = sha256_tree(shop / "data")
    things = {"book": "lend", "film": "lend", "bread": "sell", "soap": "sell", "tea": "sell"}
    verbs = ("fetch", "seek", "hand me", "show")
    table = [(f"{verb} the {thing}\nplease?", kind) for verb in verbs for thing, kind in things.items()]
    added = add(
        write_table(shop.parent / "my wants.csv", table), input_column="text", target_column="kind", replace=True
    )
    assert added.replaced is not None
    assert sha256_tree(added.replaced / "data") == before
    assert [path.name for path in RAW.iterdir()] == ["my-wants.jsonl"]
    assert [path.name for path in KNOWLEDGE.rglob("*") if path.is_file()] == [".gitkeep"]
    assert QUERY_EXPANSIONS.read_text(encoding="utf-8") == ""
    spec, source = load_contract(CONTRACT), PromptSource.read(PROMPTS)
    assert spec.labels == {"lend": "answer", "sell": "answer"}
    assert spec.language == "en"
    assert spec.owner.startswith("unknown")
    assert source.system == "Read the message and answer with its kind only."
    assert source.tools == ()
    assert (PROMPTS / "chat.jinja").read_bytes() == (added.replaced / PROMPTS / "chat.jinja").read_bytes()
    assert str(added.replaced) in added.describe()
    assert read_folder(RAW)[0].row.messages[0].content == "fetch the book\nplease?"  # type: ignore[union-attr]
    assert "labels" not in recheck()


def test_replacing_with_a_system_text_puts_it_where_serving_reads_it(shop: Path) -> None:
    table = [("is it open", "yes"), ("does it snow", "no"), ("may we sit here", "yes"), ("is that all", "no")]
    add(
        write_table(shop.parent / "faq.csv", table),
        input_column="text",
        target_column="kind",
        system="Be curt.",
        replace=True,
    )
    assert PromptSource.read(PROMPTS).system == "Be curt."
    assert all(line.row and line.row.messages[0].role == "user" for line in read_folder(RAW))


def test_replacing_by_chat_lifts_the_shared_system_turn_and_drafts_the_tools(shop: Path) -> None:
    system = {"role": "system", "content": "You mind the till."}
    rows = [{"messages": [system, *row["messages"]]} for row in sound_rows()]
    add(import_file(shop, rows, "till.jsonl"), replace=True)
    source = PromptSource.read(PROMPTS)
    assert source.system == "You mind the till."
    assert [tool["function"]["name"] for tool in source.tools] == ["find_order"]
    assert source.tools[0]["function"]["parameters"]["required"] == ["order_id"]
    assert load_contract(CONTRACT).labels == {"answer": "answer", "refusal": "refusal", "tool": "tool"}
    assert all(line.row and line.row.messages[0].role == "user" for line in read_folder(RAW))
    assert recheck() == ["balance"]


def test_a_replacement_that_cannot_be_written_is_undone(shop: Path) -> None:
    before = sha256_tree(shop / "data")
    (RAW / "new.jsonl").mkdir()
    texts = {CONTRACT: "other", PROMPTS / "extra.txt": "other", RAW / "new.jsonl": "{}"}
    with pytest.raises(GraftError, match=r"new\.jsonl.*everything is as before"):
        replace_data(texts, shop / ".graft/replaced/x")
    assert sha256_tree(shop / "data") == before


@pytest.mark.skipif(not BANKING.is_file(), reason=f"no file {BANKING}; GRAFT_BANKING77 names another path")
def test_a_slice_of_banking77_becomes_the_data_set(shop: Path) -> None:
    with BANKING.open(newline="", encoding="utf-8") as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    labels = sorted({label for _, label in rows})[:6]
    some = [row for label in labels for row in [row for row in rows if row[1] == label][:25]]
    add(write_table(shop.parent / "bank.csv", some), input_column="text", target_column="kind", replace=True)
    assert set(load_contract(CONTRACT).labels) == set(labels)
    assert recheck() == []
    first = json.loads((RAW / "bank.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["messages"][1]["content"] == first["label"] == labels[0]
