"""The contract on real files through Great Expectations: each fault is named by rule, count, file and line.

Also covers `tasks/data/check_table.py`, `tasks/data/contract_check.py`,
`tasks/data/contract_report.py`, `tasks/data/contract_spec.py`, `tasks/data/expectations.py`,
`tasks/data/row_checks.py` and `tasks/data/rule_results.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tasks.contract import run
from tasks.core.errors import GraftError
from tasks.core.records import load_messages
from tasks.core.settings import ContractSettings
from tasks.data.check_table import STORED
from tasks.data.contract_check import ContractResult
from tasks.data.contract_spec import ContractSpec
from tasks.data.expectations import Expectation, validate
from tasks.prompt.encoding import Prompt
from tasks.prompt.template import PromptSource
from tests.conftest import ROOT, make_tokenizer
from tests.support.raw_rows import TODAY, Row, call, contract_spec, say, sound_rows, write_rows

SETTINGS = ContractSettings(near_duplicate_threshold=0.8, shown_violations=2)


@pytest.fixture
def prompt(tiny_prompts: Path) -> Prompt:
    return Prompt(PromptSource.read(tiny_prompts), make_tokenizer())


class DataSet:
    """A data set in a temporary folder that the contract is run on."""

    def __init__(self, folder: Path, prompt: Prompt) -> None:
        self.raw, self.built, self.prompt = folder / "raw", folder / "contract", prompt

    def write(self, *extra: Row) -> Path:
        return write_rows(self.raw / "chats.jsonl", [*sound_rows(), *extra])

    def run(self, using: ContractSpec | None = None) -> ContractResult:
        return run(self.raw, using or contract_spec(), self.prompt, SETTINGS, TODAY, self.built)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.built / "result.json").read_text(encoding="utf-8"))
        return found

    def refused(self, using: ContractSpec | None = None) -> tuple[str, dict[str, dict[str, Any]]]:
        """The error's message, and the broken rules by name; the report is there and the rows are not."""
        with pytest.raises(GraftError) as caught:
            self.run(using)
        assert (self.built / "report.html").is_file()
        assert not (self.built / "rows.parquet").exists()
        broken = {rule["rule"]: rule for rule in self.result()["rules"] if rule["verdict"] == "broken"}
        for name, rule in broken.items():
            assert re.search(rf"^{name} +error +{rule['count']} ", str(caught.value), re.MULTILINE)
        return str(caught.value), broken


@pytest.fixture
def data_set(tmp_path: Path, prompt: Prompt) -> DataSet:
    return DataSet(tmp_path, prompt)


def turns(*roles: str) -> Row:
    return {"label": "care", "messages": [{"role": role, "content": f"{role} has a word here"} for role in roles]}


def test_sound_data_passes_and_is_stored(data_set: DataSet) -> None:
    path = data_set.write()
    checked = data_set.run()
    assert not checked.broken
    assert not checked.warnings
    assert data_set.result()["ok"] is True
    rows = pq.read_table(data_set.built / "rows.parquet").to_pylist()
    assert tuple(rows[0]) == STORED
    assert [row["source"] for row in rows] == [f"{path.as_posix()}:{n}" for n in range(1, 13)]
    assert [(row["id"], row["group"]) for row in rows[:2]] == [("chats:1", "chats:1"), ("chats:2", "chats:2")]
    ids, _ = data_set.prompt.encode_training(load_messages(rows[0]["messages"]))
    assert rows[0]["n_tokens"] == len(ids)


FAULTS: list[tuple[str, Row, str]] = [
    ("role_order", turns("user", "user", "assistant"), "turn 2: user after user"),
    ("last_turn", turns("user", "assistant", "user"), "the last turn is user's"),
    ("content", say("is there anybody there at all?", "  "), "turn 2: assistant says nothing"),
    ("labels", say("do you sell garden gnomes", "Only the dignified kind.", "gnomes"), "label 'gnomes' is not"),
    ("behavior", say("where is order HL-55555 now", "On its way to you.", "order"), "order expects a tool call"),
    ("tools", call("please stop HL-12345 at once", "HL-12345", "burn_order"), "unknown tool burn_order"),
    ("refusals", say("who lives at number nine", "Mrs Marrow does.", "private"), "without a refusal phrase"),
    ("refusals", say("is my cactus too dry now", "Sorry, I can't say."), "though care is no refusal"),
    ("language", say("wann kommt meine Bestellung endlich an?", "Soon."), "seems to be de"),
    ("tokens", say("why? " * 900, "Because."), "tokens"),
    ("personal_data", say("ring me on 020 7946 0958 would you", "Will do."), "turn 1: telephone number"),
    ("exact_duplicates", sound_rows()[0], "repeats "),
    ("near_duplicates", say("What time do you close, on Sundays?", "Four."), "is close to "),
]


@pytest.mark.parametrize(
    ("rule", "row", "reason"), FAULTS, ids=[f"{rule}-{i}" for i, (rule, _, _) in enumerate(FAULTS)]
)
def test_a_faulty_row_is_named(data_set: DataSet, rule: str, row: Row, reason: str) -> None:
    path = data_set.write(row)
    message, broken = data_set.refused()
    assert list(broken) == [rule]
    assert broken[rule]["count"] == 1
    (violation,) = broken[rule]["offending"]
    assert violation["source"] == f"{path.as_posix()}:13"
    assert reason in violation["reason"]
    assert f"{path.as_posix()}:13  {violation['reason'][:40]}" in message


def test_a_tools_arguments_are_checked_against_its_schema(data_set: DataSet, tiny_prompts: Path) -> None:
    tools = json.loads((tiny_prompts / "tools.json").read_text(encoding="utf-8"))
    tools[0]["function"]["parameters"]["properties"]["order_id"]["pattern"] = "^HL-[0-9]{5}$"
    source = PromptSource(data_set.prompt.source.system, tuple(tools), data_set.prompt.source.template)
    data_set.prompt = Prompt(source, make_tokenizer())
    data_set.write(call("any news of order 7?", "7"))
    _, broken = data_set.refused()
    assert "find_order: '7' does not match" in broken["tools"]["offending"][0]["reason"]


def test_only_the_first_offending_rows_are_shown(data_set: DataSet) -> None:
    path = data_set.write(*[turns("assistant", "user", "assistant") | {"id": f"x{n}"} for n in range(4)])
    message, broken = data_set.refused(contract_spec({"exact_duplicates": "warn", "near_duplicates": "warn"}))
    assert broken["role_order"]["count"] == 4
    assert f"{path.as_posix()}:14  " in message
    assert f"{path.as_posix()}:15" not in message
    assert "… and 2 more" in message


def test_every_broken_rule_is_in_one_table(data_set: DataSet) -> None:
    data_set.write(turns("user"), say("do you sell garden gnomes", "a@example.org has them.", "gnomes"))
    _, broken = data_set.refused()
    assert set(broken) == {"last_turn", "labels", "personal_data"}


def test_stale_data_stops_the_run_if_its_severity_says_so(data_set: DataSet) -> None:
    data_set.write()
    _, broken = data_set.refused(contract_spec(cadence_days=18))
    assert list(broken) == ["freshness"]
    assert broken["freshness"]["offending"][0]["reason"] == "updated 2031-05-01, 19 days ago"


def test_stale_data_warns_if_its_severity_says_so(data_set: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    data_set.write()
    checked = data_set.run(contract_spec({"freshness": "warn"}, cadence_days=18))
    assert [result.rule for result in checked.warnings] == ["freshness"]
    assert "updated 2031-05-01, 19 days ago" in capsys.readouterr().out
    assert (data_set.built / "rows.parquet").is_file()


def test_fresh_to_the_day_is_fresh(data_set: DataSet) -> None:
    data_set.write()
    assert not data_set.run(contract_spec(cadence_days=19)).broken


def test_too_little_data(data_set: DataSet) -> None:
    write_rows(data_set.raw / "chats.jsonl", [sound_rows()[n] for n in (0, 1, 6)])
    _, broken = data_set.refused()
    assert broken["volume"]["offending"][0]["reason"] == "3 readable rows"
    rare = {violation["source"]: violation["reason"] for violation in broken["balance"]["offending"]}
    assert rare == {"label private": "0 rows", "label order": "1 rows", "label care": "2 rows"}


def test_an_empty_file_is_named(data_set: DataSet) -> None:
    data_set.write()
    (data_set.raw / "blank.jsonl").write_text("\n \n", encoding="utf-8")
    message, broken = data_set.refused()
    assert list(broken) == ["readable"]
    assert f"{(data_set.raw / 'blank.jsonl').as_posix()}:1  the file is empty" in message


def test_nothing_but_an_empty_file(data_set: DataSet) -> None:
    data_set.raw.mkdir()
    (data_set.raw / "blank.jsonl").touch()
    message, broken = data_set.refused()
    assert set(broken) == {"readable", "volume", "balance"}
    assert "blank.jsonl:1  the file is empty" in message


def test_a_file_that_is_not_utf8_is_named_by_its_line(data_set: DataSet) -> None:
    path = data_set.write()
    path.write_bytes(path.read_bytes().replace(b"Isle of Man", b"C\xf4te d'Azur"))
    message, broken = data_set.refused()
    assert next(iter(broken)) == "readable"
    assert f"{path.as_posix()}:3  not UTF-8" in message


def test_no_file_at_all(data_set: DataSet) -> None:
    data_set.raw.mkdir()
    with pytest.raises(GraftError, match=r"no \*\.jsonl there.*graft data add"):
        data_set.run()


def test_rows_that_cannot_be_trained_on_never_pass(data_set: DataSet) -> None:
    data_set.write(turns("user"), turns("assistant", "user", "assistant"))
    checked = data_set.run(contract_spec({"last_turn": "warn", "role_order": "warn", "near_duplicates": "warn"}))
    assert {result.rule for result in checked.warnings} >= {"last_turn", "role_order"}
    assert len(pq.read_table(data_set.built / "rows.parquet")) == 12


def test_a_broken_run_takes_the_rows_of_the_run_before_away(data_set: DataSet) -> None:
    data_set.write()
    data_set.run()
    data_set.write(turns("user"))
    data_set.refused()


def test_the_report_stands_alone_and_escapes_what_it_shows(data_set: DataSet) -> None:
    data_set.write(say("is <b>this</b> a label", "It is not.", "<script>alert(1)</script>"))
    data_set.refused()
    page = (data_set.built / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page
    assert not re.search(r"<script|https?://|<link|@import|<img", page)
    assert "prefers-color-scheme" in page or "light dark" in page


def test_great_expectations_writes_nothing_to_the_home_folder(tmp_path: Path) -> None:
    code = (
        "import pandas as pd\nfrom tasks.data.expectations import Expectation, validate\n"
        "found = validate(pd.DataFrame({'a': [None, 'x']}, dtype=object),"
        " [Expectation('r', 'expect_column_values_to_be_null', {'column': 'a'})])\n"
        "assert [(f.success, f.indexes) for f in found] == [(False, (1,))], found\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_an_expectation_that_cannot_be_evaluated_is_not_a_success() -> None:
    absent = Expectation("mine", "expect_column_values_to_be_null", {"column": "absent"})
    with pytest.raises(GraftError, match="could not check the rule mine"):
        validate(pd.DataFrame({"a": [1]}), [absent])
