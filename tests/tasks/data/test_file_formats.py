"""File formats of imports: the rows that are read, and the errors of files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.data.file_formats import ImportFile, read_import
from tests.support.raw_rows import say, write_rows


def table(folder: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> ImportFile:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return read_import(path, "text", "kind")


def pairs(import_file: ImportFile) -> list[tuple[str, str, str]]:
    return [(row.messages[0].content, row.messages[1].content, row.label) for row in import_file.rows]


def test_quoted_line_breaks_delimiters_and_quotes(tmp_path: Path) -> None:
    text = 'id,text,kind\r\n1,"hello,\nyou ""there""",a\r\n2,plain,b\r\n3,"more\n\nlines",a\r\n4,last,b\r\n'
    import_file = table(tmp_path, text)
    assert pairs(import_file) == [
        ('hello,\nyou "there"', "a", "a"),
        ("plain", "b", "b"),
        ("more\n\nlines", "a", "a"),
        ("last", "b", "b"),
    ]
    assert [line.number for line in import_file.lines] == [2, 4, 5, 8]
    assert [row.id for row in import_file.rows] == ["t:2", "t:4", "t:5", "t:8"]
    assert import_file.columns == ("id", "text", "kind")


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_a_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    text = "\n".join(delimiter.join(cells) for cells in [("text", "kind"), ("a, b", "x"), ("c", "x")])
    assert pairs(table(tmp_path, text, encoding="utf-8-sig")) == [("a, b", "x", "x"), ("c", "x", "x")]


def test_targets_that_are_free_text_are_answers_and_no_labels(tmp_path: Path) -> None:
    import_file = table(tmp_path, "text,kind\nwhen,At nine.\nwhere,In Leeds.\nhow,By bus.\n")
    assert [row.label for row in import_file.rows] == ["answer"] * 3


def test_a_record_with_too_few_cells_is_a_fault_with_its_line(tmp_path: Path) -> None:
    import_file = table(tmp_path, 'text,kind\n"a\nb",x\nonly\nc,x\n')
    assert [(line.number, line.fault) for line in import_file.lines if line.fault] == [
        (4, "1 cells, but the header has 2")
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.csv", b"text,kind\n", "a header and no rows"),
        ("t.csv", b"one,two\n1,2\n", "it has no columns text and kind; it has the columns one, two"),
        ("t.csv", b"text,kind\nok,a\ncaf\xe9,b\n", r"t\.csv:3: not UTF-8"),
        ("t.xlsx", b"PK", "expected chat JSONL .* or a table"),
        ("t.jsonl", b"{}", "--input and --target name columns of a CSV"),
    ],
)
def test_unreadable_files_are_reported(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GraftError, match=message):
        read_import(tmp_path / name, "text", "kind")


def test_columns_must_be_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ask;say\n1;2\n", encoding="utf-8")
    with pytest.raises(GraftError, match=r"name the columns to use.*it has the columns ask, say"):
        read_import(tmp_path / "t.csv", None, None)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="no such file"):
        read_import(tmp_path / "t.csv", "text", "kind")


def test_openais_fine_tuning_shape_with_tools(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    row = {"messages": say("hi", "ho")["messages"], "tools": [tool], "parallel_tool_calls": False}
    import_file = read_import(write_rows(tmp_path / "t.jsonl", [row, say("he", "ha")]), None, None)
    assert list(import_file.tools.values()) == [tool]
    assert [row.label for row in import_file.rows] == ["", "care"]


def test_what_was_understood_is_described(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps(say("hi there", "ho")) + "\nnonsense\n", encoding="utf-8")
    description = read_import(tmp_path / "bad.jsonl", None, None).describe()
    assert "chat JSONL, 1 rows, 1 unreadable lines" in description
    assert "labels: 1 (care 1)" in description
    assert "first row, user: hi there" in description
    assert "columns: text, kind" in table(tmp_path, "text,kind\na,x\nb,x\n").describe()
