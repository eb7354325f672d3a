"""The repository's default data: every row keeps the contract, as checked without Great Expectations.

Also covers `tasks/core/paths.py`.
"""

from __future__ import annotations

import re

import pytest

from tasks.core.paths import CONTRACT, PROMPTS, RAW
from tasks.data import row_checks
from tasks.data.contract_spec import ContractSpec, load_contract
from tasks.data.raw_rows import RawLine, read_folder
from tasks.prompt.template import PromptSource
from tasks.text.duplicates import find_duplicates
from tasks.text.language import language_of
from tasks.text.pii import find_pii
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def lines() -> list[RawLine]:
    return read_folder(ROOT / RAW)


@pytest.fixture(scope="module")
def spec() -> ContractSpec:
    return load_contract(ROOT / CONTRACT)


def test_every_row_keeps_the_rules_for_rows(lines: list[RawLine], spec: ContractSpec) -> None:
    tools = row_checks.ToolCheck(PromptSource.read(ROOT / PROMPTS).tools)
    faults = {}
    for line in lines:
        assert line.row is not None, f"{line.source}: {line.fault}"
        found = [
            row_checks.role_order(line.row),
            row_checks.content(line.row),
            row_checks.last_turn(line.row),
            row_checks.behavior(line.row, spec.labels),
            row_checks.refusals(line.row, spec.labels, spec.refusal_phrases),
            tools(line.row),
            "" if line.row.label in spec.labels else f"label {line.row.label}",
            *(kind for _, text in row_checks.texts(line.row.messages) for kind in find_pii(text)),
        ]
        if any(found):
            faults[line.source] = [fault for fault in found if fault]
    assert faults == {}


def test_there_are_enough_rows_of_every_label(lines: list[RawLine], spec: ContractSpec) -> None:
    counts = {label: sum(line.row is not None and line.row.label == label for line in lines) for label in spec.labels}
    assert sum(counts.values()) >= max(400, spec.rules.volume.min)
    assert min(counts.values()) >= spec.rules.balance.min_rows
    assert max(counts.values()) <= spec.rules.balance.max_share * len(lines)


def test_hardly_any_row_is_close_to_another(lines: list[RawLine]) -> None:
    found = find_duplicates([line.row.messages for line in lines if line.row], 0.8)
    assert not any(index is not None for index in found.exact)
    near = [lines[index].source for index, other in enumerate(found.near) if other is not None]
    assert len(near) < 0.03 * len(lines), near


def test_customers_write_the_contracts_language(lines: list[RawLine], spec: ContractSpec) -> None:
    language = language_of(spec.language)
    foreign = [
        line.source
        for line in lines
        if line.row and language(" ".join(m.content for m in line.row.messages if m.role == "user")) != spec.language
    ]
    assert len(foreign) <= spec.rules.language.max_share * len(lines), foreign


def test_no_text_holds_a_telephone_number_of_any_make(lines: list[RawLine]) -> None:
    """Long digit strings of any kind, also those that no telephone network would route."""
    long = re.compile(r"(?<![\w-])\+?\d(?:[ -]?\d){8,}")
    texts = [(line.source, text) for line in lines if line.row for _, text in row_checks.texts(line.row.messages)]
    assert [(source, text) for source, text in texts if long.search(text)] == []
