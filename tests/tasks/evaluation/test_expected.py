"""Expected outcomes: the reader of the file, and the default data checked against the documents and the shop."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.core.paths import CONTRACT, EXPECTED_OUTCOMES, KNOWLEDGE, PARAMS, RAW, SHOP_SEED
from tasks.core.records import ChatRow, Example, ToolCall, dump_messages
from tasks.core.settings import load_settings
from tasks.data.contract_spec import load_contract
from tasks.data.raw_rows import RawLine, read_folder
from tasks.domains.nursery.database import read_seed
from tasks.domains.nursery.entities import Customer
from tasks.domains.nursery.tool_service import open_tool_service
from tasks.evaluation.expected import ExpectedOutcome, read_expected
from tasks.prepare import prepare
from tasks.retrieval.chunks import chunk_folder
from tasks.text.duplicates import find_duplicates
from tasks.tools.toolbox import Failure
from tests.conftest import ROOT

SECTIONS = {"a.md#Roses", "a.md#Lilies"}
FIRST = '{"id": "one", "customer": "C-1001", "outcome": "ok", "sections": ["a.md#Roses"]}\n'


def test_lines_are_read_by_id_and_what_is_left_out_is_not_expected(tmp_path: Path) -> None:
    path = tmp_path / "expected.jsonl"
    path.write_text(FIRST + '{"id": "two"}\n')
    assert read_expected(path, SECTIONS) == {
        "one": ExpectedOutcome(id="one", customer="C-1001", outcome="ok", sections=("a.md#Roses",)),
        "two": ExpectedOutcome(id="two", customer=None, outcome=None, sections=()),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "two", "sections": ["a.md#Lilies", "a.md#Dahlias"]}', "no section a.md#Dahlias with"),
        ('{"id": "one"}', "the second line of one"),
        ('{"customer": null}', "id: Field required"),
        ('{"id": "two", "result": "ok"}', "result: Extra inputs"),
        ("{", "Invalid JSON"),
        ("", "Invalid JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "expected.jsonl"
    path.write_text(FIRST + line + "\n" + '{"id": "three"}\n')
    with pytest.raises(GraftError, match=rf"expected.jsonl:2: .*{re.escape(message)}"):
        read_expected(path, SECTIONS)


def test_other_data_need_no_file(tmp_path: Path) -> None:
    path = tmp_path / "expected.jsonl"
    assert read_expected(path, SECTIONS) == {}
    path.touch()
    assert read_expected(path, SECTIONS) == {}
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(GraftError, match=r"expected.jsonl: not readable .* remove it"):
        read_expected(path, SECTIONS)


@pytest.fixture(scope="module")
def held_out() -> list[Example]:
    """The rows of the splits `eval` and `test`, split as the stages do it."""
    settings = load_settings(ROOT / PARAMS)
    lines = read_folder(ROOT / RAW)
    rows = [line.row for line in lines if line.row]
    duplicates = find_duplicates([row.messages for row in rows], settings.contract.near_duplicate_threshold)
    stored = [_stored(line, row, rows[first]) for line, row, first in zip(lines, rows, duplicates.cluster, strict=True)]
    return [example for example in prepare(stored, settings.prepare).examples if example.split != "train"]


def _stored(line: RawLine, row: ChatRow, first: ChatRow) -> dict[str, str]:
    """A row as the contract stage writes it; `first` is the first row of its near-duplicate cluster."""
    own = {"id": row.id, "label": row.label, "group": row.group, "source": line.source, "twin": first.id}
    return own | {"messages": dump_messages(row.messages)}


@pytest.fixture(scope="module")
def expected() -> dict[str, ExpectedOutcome]:
    return read_expected(
        ROOT / EXPECTED_OUTCOMES, {chunk.section for chunk in chunk_folder(ROOT / KNOWLEDGE, len, 10_000)}
    )


def turn_calls(example: Example) -> list[ToolCall]:
    """The calls that are made after the last customer turn."""
    last = max(index for index, message in enumerate(example.messages) if message.role == "user")
    return [call for message in example.messages[last:] for call in message.tool_calls]


def test_every_held_out_row_has_a_line(held_out: list[Example], expected: dict[str, ExpectedOutcome]) -> None:
    assert {example.id for example in held_out} - expected.keys() == set()
    rows = {line.row.id for line in read_folder(ROOT / RAW) if line.row}
    assert expected.keys() - rows == set()


def test_customers_exist(expected: dict[str, ExpectedOutcome]) -> None:
    known = {customer.id for customer in read_seed(ROOT / SHOP_SEED / "customers.jsonl", Customer)}
    named = {one.customer for one in expected.values()} - {None}
    assert named <= known
    assert len(named) > 40


def test_answers_stand_in_sections_and_nothing_else_does(
    held_out: list[Example], expected: dict[str, ExpectedOutcome]
) -> None:
    behaviors = load_contract(ROOT / CONTRACT).labels
    kinds = {example.id: behaviors[example.label] for example in held_out}
    without = [name for name, kind in kinds.items() if kind == "answer" and not expected[name].sections]
    assert len(without) <= 0.02 * sum(kind == "answer" for kind in kinds.values()), without
    assert [name for name, kind in kinds.items() if kind != "answer" and expected[name].sections] == []


def test_outcomes_are_what_a_fresh_shop_answers(
    tmp_path: Path, held_out: list[Example], expected: dict[str, ExpectedOutcome]
) -> None:
    settings = load_settings(ROOT / PARAMS).shop
    pristine = open_tool_service(settings, tmp_path / "pristine.sqlite", ROOT / SHOP_SEED).shop.path
    answered: dict[str, str | None] = {}
    for example in held_out:
        answered[example.id] = None
        for call in turn_calls(example):
            path = Path(shutil.copy(pristine, tmp_path / "shop.sqlite"))
            result = (
                open_tool_service(settings, path, ROOT / SHOP_SEED)
                .call(call, expected[example.id].customer, "key")
                .result
            )
            answered[example.id] = result.error if isinstance(result, Failure) else "ok"
    stated = {example.id: expected[example.id].outcome for example in held_out}
    assert stated == answered
    assert len(set(answered.values())) > 5
