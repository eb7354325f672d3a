"""What is expected of a held-out conversation beyond its words: for whom it is, what the shop answers, what is read.

A row says which call a good turn makes, but not for whom, nor whether the shop does it, nor where
in the documents the answer stands. `data/evaluation/expected_outcomes.jsonl` says so, one line a row, by the row's id.
A row without a line has no such expectations, so other data need no file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.jsonl import read_lines
from tasks.core.records import Record


class ExpectedOutcome(Record):
    """What is known of one conversation.

    Attributes:
        id: the row's.
        customer: whom the turn is run for: the owner of the order that the conversation names; for
            a row about somebody else's order, another customer; None for somebody not signed in,
            which is all that a row without an order needs.
        outcome: what the shop answers to the call that the row makes after its last customer turn,
            for `customer` on a fresh database: "ok", or the error's code. None without such a call.
        sections: every section that holds the answer to the last customer turn by itself, as
            `FILE#HEADING` with the innermost heading; found by reading. Empty where none does, and
            in rows that are met by a tool or a refusal.
    """

    id: str
    customer: str | None = None
    outcome: str | None = None
    sections: tuple[str, ...] = ()


def read_expected(path: Path, sections: Collection[str]) -> dict[str, ExpectedOutcome]:
    """The lines of a file by id; none where there is no file.

    `sections` are those that the documents have, see `tasks.evaluate_retrieval.section`. An id that no row has
    is no error: rows come and go.

    Raises:
        GraftError: the file cannot be read, a line is no such record, has an id for the second
            time, or names a section that is not among `sections`.
    """
    expected: dict[str, ExpectedOutcome] = {}
    lines = read_lines(path, ExpectedOutcome, "without expectations, remove it") if path.exists() else ()
    for where, one in lines:
        if one.id in expected:
            raise GraftError(f"{where}: the second line of {one.id}; leave one")
        if missing := [name for name in one.sections if name not in sections]:
            raise GraftError(
                f"{where}: no section {', '.join(missing)} with text of its own in the documents; "
                "name the section that answers, or take it out (sections may be empty)"
            )
        expected[one.id] = one
    return expected
