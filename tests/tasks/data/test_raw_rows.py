"""Raw rows, read line by line: the rows of valid lines, and the faults of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.data.raw_rows import read_folder
from tests.support.raw_rows import say, write_rows


def faults(folder: Path) -> dict[str, str]:
    return {f"{Path(line.file).name}:{line.number}": line.fault for line in read_folder(folder) if line.fault}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"messages": [', "not JSON: "),
        ("[1, 2]", "expected an object with `messages`, found list"),
        ('{"label": "a"}', "messages: Field required"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "messages.0.role: "),
        ('{"messages": [], "lable": "a"}', "lable: Extra inputs"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "half of a surrogate pair"),
        ('{"messages": [{"role": "assistant", "tool_calls": [{"name": "a", "arguments": "{"}]}]}', "messages.0.tool"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(say('hi there', 'hello'))}\n\n{text}\n", encoding="utf-8")
    found = faults(tmp_path)
    assert list(found) == ["a.jsonl:3"]
    assert fault in found["a.jsonl:3"]


def test_reading_goes_on_after_a_bad_line(tmp_path: Path) -> None:
    good = json.dumps(say("hi there", "hello"))
    (tmp_path / "a.jsonl").write_text(f"nonsense\n{good}\n", encoding="utf-8")
    write_rows(tmp_path / "b.jsonl", [say("and you", "me too")])
    assert [line.row is not None for line in read_folder(tmp_path)] == [False, True, True]


def test_a_byte_order_mark_and_line_separators_in_text_are_no_fault(tmp_path: Path) -> None:
    row = json.dumps(say("one\u2028two", "three"), ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n")
    (line,) = read_folder(tmp_path)
    assert line.row is not None
    assert line.row.messages[0].content == "one\u2028two"


def test_an_id_names_one_row(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [say("hi", "ho") | {"id": "x"}, say("he", "ha") | {"id": "x"}])
    assert "id x is already used at " in faults(tmp_path)["a.jsonl:2"]


def test_a_row_keeps_its_own_id_and_group(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [say("hi", "ho") | {"id": "x", "group": "g"}, say("he", "ha")])
    rows = [line.row for line in read_folder(tmp_path) if line.row]
    assert [(row.id, row.group) for row in rows] == [("x", "g"), ("a:2", "a:2")]
