"""Document expansion (doc2query): questions that sections answer, from `data/retrieval/query_expansions.jsonl`.

    {"article": "delivery.md", "heading": "The hour", "asked": ["what time will it come", …]}

Customers and articles use different words for the same thing. So each section may have questions that
it answers, in customers' words; they are embedded and searched beside its text, and a match returns the
section (Nogueira et al., 2019, "Document Expansion by Query Prediction"). They are written by hand from
the article alone and are distinct from the queries of the retrieval evaluation
(`data/retrieval/eval_queries.jsonl`). The file may be empty or missing: then sections are found by their
text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from tasks.core.errors import GraftError
from tasks.core.jsonl import read_lines
from tasks.core.records import Record
from tasks.retrieval.chunks import Passage


class SectionExpansions(Record):
    """A line of the file: a section and the questions that it answers."""

    article: str
    """The document's path relative to the knowledge folder."""
    heading: str
    """The section's innermost heading."""
    asked: tuple[str, ...] = Field(min_length=1)
    """Questions that the section answers."""


def read_expansions(path: Path, chunks: Sequence[Passage]) -> list[tuple[str, tuple[int, ...]]]:
    """Each question with the indices in `chunks` of its section's passages, in the order of the file.

    Raises:
        GraftError: the file is not UTF-8, a line is no section with questions, or the section is not among `chunks`.
    """
    indices: dict[str, list[int]] = {}
    for index, chunk in enumerate(chunks):
        indices.setdefault(chunk.section, []).append(index)
    expansions: list[tuple[str, tuple[int, ...]]] = []
    lines = read_lines(path, SectionExpansions, "without such questions, empty it") if path.exists() else ()
    for where, section in lines:
        name = f"{section.article}#{section.heading}"
        if name not in indices:
            raise GraftError(
                f"{where}: no section {name} with text of its own in the documents; "
                "name the section that answers, or delete the line (the file may be empty)"
            )
        if blank := [number for number, question in enumerate(section.asked, start=1) if not question.strip()]:
            raise GraftError(f"{where}: question {blank[0]} of {name} is blank; write one, or delete it")
        expansions += [(question, tuple(indices[name])) for question in section.asked]
    return expansions
