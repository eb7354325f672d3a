"""Stage `prepare`: turns accepted rows into examples in three disjoint splits, without data leakage between them.

Exact duplicates are dropped. Rows of one conversation group, and near-duplicates, stay in one split: an eval
row that nearly repeats a training row would make the model look better than it is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import GraftError, run_main
from tasks.core.files import new_folder, write_json
from tasks.core.paths import BUILT_CONTRACT, BUILT_EXAMPLES
from tasks.core.records import Example, load_messages
from tasks.core.settings import PrepareSettings, load_settings
from tasks.data.examples import save_examples
from tasks.data.splits import SPLITS, assign, shares
from tasks.text.duplicates import Clusters, find_duplicates, fingerprint

SUMMARY = "summary.json"


@dataclass(frozen=True)
class PreparedRows:
    """The prepared examples of all splits."""

    examples: list[Example]
    """The examples in the order of the rows."""
    dropped: int
    """The number of exact duplicates that were dropped."""

    def split(self, name: str) -> list[Example]:
        """The examples of one split."""
        return [example for example in self.examples if example.split == name]


def load_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that the contract accepted.

    Raises:
        GraftError: the file is missing, is no Parquet file, or holds no row.
    """
    if not path.is_file():
        raise GraftError(f"{path}: the accepted rows are missing; run the stage `contract` first")
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise GraftError(f"{path}: not a table of rows ({error}); run the stage `contract` again") from error
    if not rows:
        raise GraftError(f"{path}: the contract accepted no row, so there is nothing to prepare")
    return rows


def prepare(rows: Sequence[dict[str, Any]], settings: PrepareSettings) -> PreparedRows:
    """Drop exact duplicates (the first stays) and assign each row to a split.

    Raises:
        GraftError: the fractions leave no rows for training.
    """
    kept: dict[str, dict[str, Any]] = {}
    for row in rows:
        kept.setdefault(fingerprint(load_messages(row["messages"])), row)
    unique = list(kept.values())
    split_groups = _split_groups(unique)
    fractions = shares(settings.eval_fraction, settings.test_fraction)
    split_of = assign(split_groups, [row["label"] for row in unique], fractions, settings.seed)
    examples = [
        Example(
            id=row["id"],
            label=row["label"],
            group=row["group"],
            split=split_of[split_group],
            source=row["source"],
            messages=load_messages(row["messages"]),
        )
        for row, split_group in zip(unique, split_groups, strict=True)
    ]
    return PreparedRows(examples, len(rows) - len(unique))


def _split_groups(rows: Sequence[dict[str, Any]]) -> list[str]:
    """For each row the name of its split group: the union of its conversation group and its near-duplicates.

    The cluster of near-duplicates is a column of `tasks.data.check_table.STORED`.
    """
    clusters = Clusters(len(rows))
    first: dict[tuple[str, str], int] = {}
    for index, row in enumerate(rows):
        for key in (("group", row["group"]), ("twin", row["twin"])):
            clusters.join(first.setdefault(key, index), index)
    return [str(rows[clusters.find(index)]["id"]) for index in range(len(rows))]


def refuse_crossing(examples: Sequence[Example], near_duplicate: float) -> None:
    """Check, from the examples alone, that no group and no pair of near-duplicates is in two splits.

    Raises:
        GraftError: one is in two splits; the message names both rows.
    """
    groups: dict[str, Example] = {}
    for example in examples:
        other = groups.setdefault(example.group, example)
        if other.split != example.split:
            raise GraftError(_crossing_message(f"group {example.group}", other, example))
    duplicates = find_duplicates([example.messages for example in examples], near_duplicate)
    for example, first_index in zip(examples, duplicates.cluster, strict=True):
        if examples[first_index].split != example.split:
            raise GraftError(_crossing_message("a near-duplicate", examples[first_index], example))


def _crossing_message(relation: str, one: Example, other: Example) -> str:
    return (
        f"prepare: {relation} crosses splits: {one.source} is in {one.split}, {other.source} in {other.split}; "
        "nothing was written. Run the stage `contract` again, which groups the rows again."
    )


def summarize(prepared: PreparedRows) -> dict[str, Any]:
    """Rows per split and label, dropped duplicates, and the sha256 of all examples."""
    content = hashlib.sha256("\n".join(example.model_dump_json() for example in prepared.examples).encode())
    return {
        "rows": {name: len(prepared.split(name)) for name in SPLITS},
        "labels": {
            name: dict(sorted(Counter(example.label for example in prepared.split(name)).items())) for name in SPLITS
        },
        "dropped_duplicates": prepared.dropped,
        "sha256": content.hexdigest(),
    }


def save(prepared: PreparedRows, folder: Path) -> None:
    """Write a Parquet file per split and the summary: the whole folder or none of it."""
    with new_folder(folder) as temporary:
        for name in SPLITS:
            save_examples(temporary / f"{name}.parquet", prepared.split(name))
        write_json(temporary / SUMMARY, summarize(prepared))


def main() -> None:
    settings = load_settings()
    prepared = prepare(load_rows(BUILT_CONTRACT / "rows.parquet"), settings.prepare)
    refuse_crossing(prepared.examples, settings.contract.near_duplicate_threshold)
    save(prepared, BUILT_EXAMPLES)
    counts = ", ".join(f"{len(prepared.split(name))} {name}" for name in SPLITS)
    print(f"prepare: {counts}; {prepared.dropped} exact duplicates dropped")


if __name__ == "__main__":
    run_main(main)
