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
    """A customer's question, and where its answer stands: file and innermost heading, or nowhere.

    `also` has the other sections that answer it by themselves, as `FILE#HEADING`.
    """

    question: str
    article: str | None
    heading: str | None
    also: tuple[str, ...] = ()
    split: Split

    @model_validator(mode="after")
    def _both_or_none(self) -> EvalQuery:
        if (self.article is None) != (self.heading is None):
            raise ValueError("article and heading are both given, or both null")
        return self

    @property
    def sections(self) -> tuple[str, ...]:
        """Every section that answers it, as `FILE#HEADING`."""
        return () if self.article is None else (f"{self.article}#{self.heading}", *self.also)


class RetrievalScores(Record):
    """One split's figures, each a share from 0 to 1; None where there are no such questions.

    Attributes:
        questions: those that have an answer; `off_topic` those that have none.
        recall: by k: a section that answers is among the first k chunks.
        article_recall: by k: a file that holds one is, whichever section of it.
        mrr: mean reciprocal rank of the first such section among max(k), 0 where there is none.
        nothing_found: questions with an answer for which nothing relevant was found.
        off_topic_refused: questions without one for which nothing relevant was found.
    """

    questions: int
    off_topic: int
    recall: dict[int, float | None]
    article_recall: dict[int, float | None]
    mrr: float | None
    nothing_found: float | None
    off_topic_refused: float | None


QueryResult = tuple[EvalQuery, Sequence[Passage]]
"""A question and the chunks found for it, the best first."""


def read_eval_queries(path: Path, chunks: Iterable[Passage]) -> list[EvalQuery]:
    """The questions in a file, in its order.

    Raises:
        GraftError: the file cannot be read, a line is no question, or the section that it names is not among `chunks`.
    """
    known = {chunk.section for chunk in chunks}
    questions = []
    for where, question in read_lines(path, EvalQuery, "without questions, leave it empty"):
        if missing := [name for name in question.sections if name not in known]:
            raise GraftError(
                f"{where}: no section {', '.join(missing)} with text of its own in the index; "
                "name the section that answers, or take the line out (the file may be empty)"
            )
        questions.append(question)
    return questions


def rank(relevant: Iterable[bool]) -> int | None:
    """The place, from 1, of the first that is relevant."""
    return next((place for place, found in enumerate(relevant, start=1) if found), None)


def recall_at(k: int, ranks: Sequence[int | None]) -> float | None:
    """The share of ranks within the first `k`."""
    return _mean([place is not None and place <= k for place in ranks])


def mean_reciprocal_rank(ranks: Sequence[int | None]) -> float | None:
    """The mean of 1/rank, with 0 for what was not found."""
    return _mean([1 / place if place else 0.0 for place in ranks])


def score(asked: Sequence[QueryResult], cutoffs: Sequence[int]) -> RetrievalScores:
    """The figures of some questions and what was found for each."""
    answerable = [(question, found) for question, found in asked if question.article is not None]
    off_topic = [found for question, found in asked if question.article is None]
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
