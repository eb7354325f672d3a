"""Retrieval metrics: recall@k and mean reciprocal rank over questions with known sections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from tasks.core.errors import GraftError
from tasks.core.jsonl import read_lines
from tasks.core.records import Record
from tasks.retrieval.chunks import Passage

Split = Literal["tune", "eval"]


class EvalQuery(Record):
    """An eval query: a customer's question with the sections that answer it."""

    question: str
    """The question, in a customer's words."""
    article: str | None
    """File of the section that answers it; None if no document does."""
    heading: str | None
    """Innermost heading of that section; None if no document answers."""
    also: tuple[str, ...] = ()
    """The other sections that answer it by themselves, as `FILE#HEADING`."""
    split: Split
    """`tune` for choosing settings, `eval` for the reported metrics."""

    @model_validator(mode="after")
    def _both_or_none(self) -> EvalQuery:
        if (self.article is None) != (self.heading is None):
            raise ValueError("article and heading must both be strings or both be null")
        return self

    @property
    def sections(self) -> tuple[str, ...]:
        """Every section that answers it, as `FILE#HEADING`."""
        return () if self.article is None else (f"{self.article}#{self.heading}", *self.also)


class RetrievalScores(Record):
    """The retrieval metrics of one split, each a fraction from 0 to 1; None where there are no such questions."""

    questions: int
    """Number of questions that a section answers."""
    off_topic: int
    """Number of questions that no section answers."""
    recall: dict[int, float | None]
    """By k: recall@k, the fraction of questions with an answering section among the first k passages."""
    article_recall: dict[int, float | None]
    """By k: recall@k of files, where any section of a file with an answering section counts."""
    mrr: float | None
    """Mean reciprocal rank of the first answering section among the first max(k) passages, 0 where there is none."""
    nothing_found: float | None
    """Fraction of the answerable questions for which nothing relevant was found."""
    off_topic_refused: float | None
    """Fraction of the off-topic questions for which nothing relevant was found."""


QueryResult = tuple[EvalQuery, Sequence[Passage]]
"""A question and the passages found for it, the best first."""


def read_eval_queries(path: Path, chunks: Iterable[Passage]) -> list[EvalQuery]:
    """The questions of a file, in its order.

    Raises:
        GraftError: the file cannot be read, a line is no question, or the section that it names is not among `chunks`.
    """
    known = {chunk.section for chunk in chunks}
    questions = []
    for where, question in read_lines(path, EvalQuery, "without questions, leave it empty"):
        if missing := [name for name in question.sections if name not in known]:
            raise GraftError(
                f"{where}: no section {', '.join(missing)} with text of its own in the index; "
                "name the section that answers, or delete the line (the file may be empty)"
            )
        questions.append(question)
    return questions


def rank(relevant: Iterable[bool]) -> int | None:
    """The rank, from 1, of the first relevant hit; None if there is none."""
    return next((number for number, hit in enumerate(relevant, start=1) if hit), None)


def recall_at(k: int, ranks: Sequence[int | None]) -> float | None:
    """Recall@k: the fraction of ranks within the first `k`."""
    return _mean([position is not None and position <= k for position in ranks])


def mean_reciprocal_rank(ranks: Sequence[int | None]) -> float | None:
    """Mean reciprocal rank (MRR): the mean of 1/rank, with 0 where there is no rank."""
    return _mean([1 / position if position else 0.0 for position in ranks])


def score(results: Sequence[QueryResult], cutoffs: Sequence[int]) -> RetrievalScores:
    """The metrics of some questions and the passages found for each."""
    answerable = [(question, found) for question, found in results if question.article is not None]
    off_topic = [found for question, found in results if question.article is None]
    ranks = [rank(chunk.section in question.sections for chunk in found) for question, found in answerable]
    articles = [
        rank(chunk.source in {name.split("#")[0] for name in question.sections} for chunk in found)
        for question, found in answerable
    ]
    return RetrievalScores(
        questions=len(answerable),
        off_topic=len(off_topic),
        recall={k: recall_at(k, ranks) for k in cutoffs},
        article_recall={k: recall_at(k, articles) for k in cutoffs},
        mrr=mean_reciprocal_rank(ranks),
        nothing_found=_mean([not found for _, found in answerable]),
        off_topic_refused=_mean([not found for found in off_topic]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
