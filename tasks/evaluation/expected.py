"""Expected outcomes (gold labels) of held-out conversations: the customer, the tool's result, the sections to read.

An eval row says which call a good turn makes, but not for which customer, nor whether the shop accepts the
call, nor which section of the documents has the answer. `data/evaluation/expected_outcomes.jsonl` says so, one
line per row, by the row's id. A row without a line has no such expectations, so other data need no file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.jsonl import read_lines
from tasks.core.records import Record


class ExpectedOutcome(Record):
    """The expectations of one conversation."""

    id: str
    """Id of the eval row."""
    customer: str | None = None
    """Id of the customer for whom the turn runs: the owner of the order that the conversation names, or, for a row
    about another person's order, a customer who does not own it. None for a customer who is not signed in, which
    is all that a row without an order needs."""
    outcome: str | None = None
    """Result of the call that the row makes after its last customer turn, for `customer` on a fresh database: "ok"
    or the error's code. None without such a call."""
    sections: tuple[str, ...] = ()
    """Every section that by itself answers the last customer turn, as `FILE#HEADING` with the innermost heading;
    found by reading. Empty where no section does, and in rows that a tool call or a refusal answers."""


def read_expected(path: Path, sections: Collection[str]) -> dict[str, ExpectedOutcome]:
    """The expectations in a file, by id; none if the file does not exist.

    An id that no eval row has is no error, because rows are added and removed.

    Args:
        path: the file.
        sections: the sections of the documents, as `tasks.retrieval.chunks.Passage.section` names them.

    Raises:
        GraftError: the file cannot be read, or a line is no such record, repeats an id, or names a section
            that is not among `sections`.
    """
    expected: dict[str, ExpectedOutcome] = {}
    lines = read_lines(path, ExpectedOutcome, "without expectations, remove it") if path.exists() else ()
    for where, one in lines:
        if one.id in expected:
            raise GraftError(f"{where}: the second line of {one.id}; keep one of them")
        if missing := [name for name in one.sections if name not in sections]:
            raise GraftError(
                f"{where}: no section {', '.join(missing)} with text of its own in the documents; "
                "name the section that answers, or remove the name (sections may be empty)"
            )
        expected[one.id] = one
    return expected
