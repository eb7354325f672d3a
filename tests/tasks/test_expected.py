"""Expectations as they are read, and those of the default data, held to the documents and the shop."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.errors import GraftError
from tasks.expected import Expected, read_expected

SECTIONS = {"a.md#Roses", "a.md#Lilies"}
FIRST = '{"id": "one", "customer": "C-1001", "outcome": "ok", "sections": ["a.md#Roses"]}\n'


def test_lines_are_read_by_id_and_what_is_left_out_is_not_expected(tmp_path: Path) -> None:
    path = tmp_path / "expected.jsonl"
    path.write_text(FIRST + '{"id": "two"}\n')
    assert read_expected(path, SECTIONS) == {
        "one": Expected(id="one", customer="C-1001", outcome="ok", sections=("a.md#Roses",)),
        "two": Expected(id="two", customer=None, outcome=None, sections=()),
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "two", "sections": ["a.md#Lilies", "a.md#Dahlias"]}', "no section a.md#Dahlias with"),
        ('{"id": "one"}', "the second line of one"),
        ('{"customer": null}', "id: Field required"),
        ('{"id": "two", "result": "ok"}', "result: Extra inputs"),
        ("{", "Invalid JSON"),
        ("", "Invalid JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "expected.jsonl"
    path.write_text(FIRST + line + "\n" + '{"id": "three"}\n')
    with pytest.raises(GraftError, match=rf"expected.jsonl:2: .*{re.escape(said)}"):
        read_expected(path, SECTIONS)


def test_other_data_need_no_file(tmp_path: Path) -> None:
    path = tmp_path / "expected.jsonl"
    assert read_expected(path, SECTIONS) == {}
    path.touch()
    assert read_expected(path, SECTIONS) == {}
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(GraftError, match=r"expected.jsonl: not readable .* remove it"):
        read_expected(path, SECTIONS)
