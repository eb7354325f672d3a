"""Retrieval metrics worked out by hand (`tasks/evaluation/retrieval_metrics.py`), and the default eval queries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.core.paths import EVAL_QUERIES, KNOWLEDGE
from tasks.evaluation.retrieval_metrics import (
    EvalQuery,
    mean_reciprocal_rank,
    rank,
    read_eval_queries,
    recall_at,
    score,
)
from tasks.retrieval.chunks import Passage, chunk_folder
from tests.conftest import ROOT


def chunk(source: str, heading: str) -> Passage:
    return Passage(id=f"{source}#{heading}", source=source, headings=("Title", heading), text="…")


A, B, C = chunk("a.md", "Roses"), chunk("a.md", "Lilies"), chunk("b.md", "Roses")


def ask(article: str | None, heading: str | None, *also: str) -> EvalQuery:
    return EvalQuery(question="?", article=article, heading=heading, also=also, split="eval")


def test_ranks_and_their_means() -> None:
    assert [rank([False, True, True]), rank([False]), rank([])] == [2, None, None]
    ranks = [1, 2, None, 4]
    assert [recall_at(k, ranks) for k in (1, 2, 4)] == [0.25, 0.5, 0.75]
    assert mean_reciprocal_rank(ranks) == 0.4375
    assert recall_at(3, []) is None


def test_scores_by_hand() -> None:
    results = [
        (ask("a.md", "Roses"), [C, B, A]),  # section third, file second
        (ask("a.md", "Lilies", "b.md#Roses"), [C, A, B]),  # the other section that answers is first
        (ask("b.md", "Roses"), []),
        (ask(None, None), []),
        (ask(None, None), [A]),
    ]
    scores = score(results, (1, 3))
    assert (scores.questions, scores.off_topic) == (3, 2)
    assert scores.recall == {1: 0.3333, 3: 0.6667}
    assert scores.article_recall == {1: 0.3333, 3: 0.6667}
    assert score(results[:1], (1, 2)).article_recall == {1: 0.0, 2: 1.0}
    assert scores.mrr == pytest.approx((1 / 3 + 1) / 3, abs=1e-4)
    assert (scores.nothing_found, scores.off_topic_refused) == (0.3333, 0.5)
    assert score([], (1,)).mrr is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "?", "article": "a.md", "heading": "Dahlias", "split": "eval"}', "no section a.md#Dahlias with"),
        ('{"question": "?", "article": "a.md", "heading": null, "split": "eval"}', "both be strings or both be null"),
        ('{"question": "?", "article": null, "heading": null, "split": "test"}', "split: Input should be"),
        ("{", "Invalid JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "?", "article": "a.md", "heading": "Roses", "split": "eval"}\n' + line + "\n")
    with pytest.raises(GraftError, match=rf"questions.jsonl:2: .*{re.escape(message)}"):
        read_eval_queries(path, [A])


def test_a_file_without_questions_is_empty_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    with pytest.raises(GraftError, match=r"questions.jsonl: not readable .* leave it empty"):
        read_eval_queries(path, [A])
    path.touch()
    assert read_eval_queries(path, [A]) == []


def test_the_questions_cover_every_document_in_words_of_their_own() -> None:
    chunks = chunk_folder(ROOT / KNOWLEDGE, len, 10_000)
    questions = read_eval_queries(ROOT / EVAL_QUERIES, chunks)
    answerable = [question for question in questions if question.article is not None]
    assert len(answerable) >= 160
    assert len(questions) - len(answerable) >= 40
    assert {question.article for question in answerable} == {chunk.source for chunk in chunks}
    assert {question.split for question in questions} == {"tune", "eval"}
    texts = [normal(question.question) for question in questions]
    assert len(set(texts)) == len(texts)
    known = {normal(heading) for chunk in chunks for heading in chunk.headings}
    sentences = {normal(part) for chunk in chunks for part in re.split(r"(?<=[.!?:])\s+|\n", chunk.text)}
    assert not set(texts) & (known | sentences)


def normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
