"""JSONL files that people write, one record per line. Each file's own rules are in its module's test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.core.jsonl import read_lines
from tasks.core.records import Record


class Plant(Record):
    name: str
    height_cm: int


def read(path: Path) -> list[tuple[str, Plant]]:
    return list(read_lines(path, Plant, "without plants, plant some"))


def test_each_record_comes_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "plants.jsonl"
    path.write_text('{"name": "rose\u2028bush", "height_cm": 90}\n{"name": "leek", "height_cm": 40}\n')
    # JSON may hold line separators that are no line feed.
    assert read(path) == [
        (f"{path}:1", Plant(name="rose\u2028bush", height_cm=90)),
        (f"{path}:2", Plant(name="leek", height_cm=40)),
    ]
    path.write_text("")
    assert read(path) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"name": "leek"}', "height_cm: Field required"),
        ('{"name": "leek", "height_cm": 40, "color": "green"}', "color: Extra inputs are not permitted"),
        ("", "Invalid JSON"),
        ("[]", "Input should be an object"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "plants.jsonl"
    path.write_text(f'{{"name": "rose", "height_cm": 90}}\n{line}\n{{}}\n')
    with pytest.raises(GraftError, match=f"plants.jsonl:2: .*{message}"):
        read(path)


def test_what_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "plants.jsonl"
    with pytest.raises(GraftError, match=r"plants.jsonl: not readable .*without plants, plant some"):
        read(path)
    path.write_bytes(b"\xff")
    with pytest.raises(GraftError, match=r"plants.jsonl: not readable"):
        read(path)
