"""Check table of the data contract: raw lines as one flat table, a row per line, for the contract's expectations.

Columns: `source` (file:line); a column per check that holds a short fault or None; `label`,
`language`, `n_tokens`; `exact_duplicate` and `near_duplicate` (the row that it repeats, or None);
`personal_data`; `label_rows` and `label_share` (number and fraction of the rows with the row's label, if
the contract knows it); `readable_rows` (1 or 0) and `age_days`. A line without a row has None in all
columns but its source, its fault and the last two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import pandas as pd

from tasks.core.progress import Progress
from tasks.core.records import ChatRow, dump_messages
from tasks.data import row_checks
from tasks.data.contract_spec import ContractSpec
from tasks.data.raw_rows import RawLine
from tasks.prompt.encoding import Prompt
from tasks.text.duplicates import Duplicates, find_duplicates
from tasks.text.language import language_of
from tasks.text.pii import find_pii

TRAINABLE = ("readable", "role_order", "last_turn")
"""Faults that make a row untrainable: it is left out, whatever the severity of its rule."""

COLUMNS = (
    "source",
    "readable",
    "role_order",
    "content",
    "last_turn",
    "label",
    "behavior",
    "tools",
    "refusals",
    "language",
    "n_tokens",
    "exact_duplicate",
    "near_duplicate",
    "personal_data",
    "label_rows",
    "label_share",
    "readable_rows",
    "age_days",
)

STORED = ("id", "label", "group", "source", "messages", "n_tokens", "twin")
"""Columns of `rows.parquet`; the last one is the id of the first row in the row's cluster of near-duplicates."""


class RowChecker:
    """The checks of a row by itself, prepared once and applied to many rows."""

    def __init__(self, spec: ContractSpec, prompt: Prompt) -> None:
        self._spec, self._prompt = spec, prompt
        self._tools = row_checks.ToolCheck(prompt.source.tools)
        self._language = language_of(spec.language)

    def __call__(self, row: ChatRow) -> dict[str, Any]:
        """The row's columns that depend on no other row."""
        labels, phrases = self._spec.labels, self._spec.refusal_phrases
        faults = {
            "role_order": row_checks.role_order(row),
            "content": row_checks.content(row),
            "last_turn": row_checks.last_turn(row),
            "behavior": row_checks.behavior(row, labels),
            "tools": self._tools(row),
            "refusals": row_checks.refusals(row, labels, phrases),
            "personal_data": _pii_fault(row),
        }
        trainable = not any(faults.get(name) for name in TRAINABLE)
        return {
            **{name: fault or None for name, fault in faults.items()},
            "label": row.label,
            "language": self._language(" ".join(m.content for m in row.messages if m.role == "user")),
            "n_tokens": len(self._prompt.encode_training(row.messages)[0]) if trainable else None,
        }


def _pii_fault(row: ChatRow) -> str:
    for number, text in row_checks.texts(row.messages):
        if kinds := find_pii(text):
            return f"turn {number}: {', '.join(kinds)}"
    return ""


def _duplicate_columns(lines: Sequence[RawLine], duplicates: Duplicates) -> list[dict[str, str | None]]:
    def name(index: int | None, how: str) -> str | None:
        return None if index is None else f"{how} {lines[index].source}"

    return [
        {"exact_duplicate": name(exact, "repeats"), "near_duplicate": name(near, "is close to")}
        for exact, near in zip(duplicates.exact, duplicates.near, strict=True)
    ]


def build_table(
    lines: Sequence[RawLine], spec: ContractSpec, prompt: Prompt, near_duplicate: float, today: date
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The check table, one row per line; and the trainable rows, with the columns `STORED`.

    Args:
        lines: the raw lines.
        spec: the data contract.
        prompt: the prompt that counts tokens and declares tools.
        near_duplicate: the lowest Jaccard similarity of near-duplicates, 0 to 1.
        today: the date for the age of the data.

    Raises:
        GraftError: the contract's language or a tool's schema cannot be checked.
    """
    readable = [line for line in lines if line.row is not None]
    rows = [line.row for line in readable if line.row is not None]
    check = RowChecker(spec, prompt)
    checked = _map_rows(rows, check)
    duplicates = find_duplicates([row.messages for row in rows], near_duplicate)
    counts = Counter(row.label for row in rows if row.label in spec.labels)
    columns = iter(
        own | duplicate_columns | {"label_rows": counts.get(row.label), "label_share": counts[row.label] / len(rows)}
        for row, own, duplicate_columns in zip(rows, checked, _duplicate_columns(readable, duplicates), strict=True)
    )
    age_days = (today - spec.updated).days
    records = [
        {"source": line.source, "readable": line.fault or None, "readable_rows": 0 if line.fault else 1}
        | {"age_days": age_days}
        | ({} if line.row is None else next(columns))
        for line in lines
    ]
    table = pd.DataFrame.from_records(records, columns=list(COLUMNS))
    table = table.astype({name: object for name in COLUMNS if table[name].dtype.kind not in "if"})
    kept = [
        _stored(line, row, row_columns["n_tokens"], rows[first_row].id)
        for line, row, row_columns, first_row in zip(readable, rows, checked, duplicates.cluster, strict=True)
        if row_columns["n_tokens"] is not None
    ]
    return table.where(table.notna(), None), pd.DataFrame.from_records(kept, columns=list(STORED))


def _map_rows(rows: Sequence[ChatRow], check: Callable[[ChatRow], dict[str, Any]]) -> list[dict[str, Any]]:
    progress = Progress("contract", len(rows), "rows", "rows")
    checked = []
    for done, row in enumerate(rows, 1):
        checked.append(check(row))
        progress.update(done, done)
    return checked


def _stored(line: RawLine, row: ChatRow, n_tokens: int, cluster_id: str) -> dict[str, Any]:
    """One record of `rows.parquet`; `cluster_id` is the id of the first row in its near-duplicate cluster."""
    return {
        "id": row.id,
        "label": row.label,
        "group": row.group,
        "source": line.source,
        "messages": dump_messages(row.messages),
        "n_tokens": n_tokens,
        "twin": cluster_id,
    }
