"""Query expansions: read with their passages' indices, rejected by line, and distinct from the eval queries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.core.paths import EVAL_QUERIES, KNOWLEDGE, QUERY_EXPANSIONS
from tasks.evaluation.retrieval_metrics import read_eval_queries
from tasks.retrieval.chunks import Passage, chunk_folder
from tasks.retrieval.expansion import read_expansions
from tests.conftest import ROOT

CHUNKS = [
    Passage(id=f"a.md#{index}", source="a.md", headings=("Title", heading), text="…")
    for index, heading in enumerate(("Roses", "Lilies", "Roses"))
]
GOOD = '{"article": "a.md", "heading": "Roses", "asked": ["when?", "how?"]}'


def test_each_question_has_the_places_of_its_section(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    assert read_expansions(path, CHUNKS) == []
    path.write_text("\n")
    assert read_expansions(path, CHUNKS) == []
    path.write_text(GOOD + "\n" + GOOD.replace("Roses", "Lilies") + "\n")
    assert read_expansions(path, CHUNKS) == [("when?", (0, 2)), ("how?", (0, 2)), ("when?", (1,)), ("how?", (1,))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("Roses", "Dahlias"), "no section a.md#Dahlias with"),
        (GOOD.replace('"when?", "how?"', ""), "asked: Tuple should have at least 1 item"),
        (GOOD.replace("when?", "  "), "question 1 of a.md#Roses is blank"),
        (GOOD.replace("asked", "questions"), "asked: Field required"),
        ("{", "Invalid JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(GOOD + "\n" + line + "\n")
    with pytest.raises(GraftError, match=rf"asked.jsonl:2: .*{re.escape(message)}"):
        read_expansions(path, CHUNKS)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_bytes(b"\xff")
    with pytest.raises(GraftError, match=r"asked.jsonl: not readable"):
        read_expansions(tmp_path / "asked.jsonl", CHUNKS)


def test_every_section_has_questions_and_none_is_one_that_retrieval_is_measured_by() -> None:
    chunks = chunk_folder(ROOT / KNOWLEDGE, len, 10_000)
    expansions = read_expansions(ROOT / QUERY_EXPANSIONS, chunks)
    assert {index for _, indices in expansions for index in indices} == set(range(len(chunks)))
    eval_queries = [words(question.question) for question in read_eval_queries(ROOT / EVAL_QUERIES, chunks)]
    similar = [q for q, _ in expansions if any(len(words(q) & e) >= 0.6 * len(words(q) | e) for e in eval_queries)]
    assert similar == []


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))
