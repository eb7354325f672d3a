"""Questions that sections answer, in customers' words: `data/retrieval/query_expansions.jsonl`.

    {"article": "delivery.md", "heading": "The hour", "asked": ["what time will it come", …]}

Customers and articles name the same thing by different words. So each section may bring questions
that it answers; they are embedded and searched beside its text, and lead to it (document expansion;
Nogueira et al., 2019, "Document Expansion by Query Prediction"). They are written by hand from the
article alone, and are not the questions that retrieval is measured by (`data/retrieval/eval_queries.jsonl`). The
file may be empty or missing: then sections are found by their text alone.
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
    """A line of the file: a section, by file and innermost heading, and questions that it answers."""

    article: str
    heading: str
    asked: tuple[str, ...] = Field(min_length=1)


def read_expansions(path: Path, chunks: Sequence[Passage]) -> list[tuple[str, tuple[int, ...]]]:
    """Each question with the places in `chunks` of its section's chunks, in the order of the file.

    Raises:
        GraftError: the file is not UTF-8, a line is no section with questions, or the section is not among `chunks`.
    """
    places: dict[str, list[int]] = {}
    for place, chunk in enumerate(chunks):
        places.setdefault(chunk.section, []).append(place)
    found: list[tuple[str, tuple[int, ...]]] = []
    lines = read_lines(path, SectionExpansions, "without such questions, empty it") if path.exists() else ()
    for where, section in lines:
        name = f"{section.article}#{section.heading}"
        if name not in places:
            raise GraftError(
                f"{where}: no section {name} with text of its own in the documents; "
                "name the section that answers, or take the line out (the file may be empty)"
            )
        if blank := [place for place, question in enumerate(section.asked, start=1) if not question.strip()]:
            raise GraftError(f"{where}: question {blank[0]} of {name} is blank; write one, or take it out")
        found += [(question, tuple(places[name])) for question in section.asked]
    return found
