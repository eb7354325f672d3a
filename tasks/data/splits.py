"""Data splits train, eval and test: stratified by label, deterministic, and with whole split groups."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from tasks.core.errors import GraftError

Split = Literal["train", "eval", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def shares(eval_fraction: float, test_fraction: float) -> dict[Split, float]:
    """The fraction of rows per split.

    Raises:
        GraftError: no rows would remain for training.
    """
    train_share = 1.0 - eval_fraction - test_fraction
    if train_share <= 0.0:
        raise GraftError(
            f"params.yaml: prepare.eval_fraction {eval_fraction} and test_fraction {test_fraction} "
            "leave nothing to train on"
        )
    return {"train": train_share, "eval": eval_fraction, "test": test_fraction}


def assign(
    groups: Sequence[str], labels: Sequence[str], fractions: Mapping[Split, float], seed: int
) -> dict[str, Split]:
    """The split of each split group.

    The rows of a split group stay in one split. Labels are processed from the rarest to the most frequent, and
    each label's groups from the largest to the smallest: a group goes to the split in which the label lacks the
    most rows, except that the last groups go to splits without the label. So a label has a row in each split of
    a fraction above 0 if it has as many groups as there are such splits.

    Args:
        groups: each row's split group.
        labels: each row's label, in the same order.
        fractions: the fraction of rows of each split, 0 to 1.
        seed: the seed of the order of groups of equal size.
    """
    rows_of: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        rows_of[label][group] += 1
    split_of: dict[str, Split] = {}
    for label in sorted(rows_of, key=lambda name: (len(rows_of[name]), name)):
        _assign_label(rows_of[label], fractions, seed, split_of)
    return split_of


def _assign_label(
    rows: Mapping[str, int], fractions: Mapping[Split, float], seed: int, split_of: dict[str, Split]
) -> None:
    """Assign those groups of one label that no other label has assigned yet.

    Args:
        rows: the label's number of rows in each split group.
        fractions: the fraction of rows of each split, 0 to 1.
        seed: the seed of the order of groups of equal size.
        split_of: the split of each group so far; filled in place.
    """
    total = sum(rows.values())
    missing = {split: fraction * total for split, fraction in fractions.items()}
    empty = {split for split in SPLITS if fractions[split] > 0}
    for group in rows.keys() & split_of.keys():
        missing[split_of[group]] -= rows[group]
        empty.discard(split_of[group])
    unassigned = sorted(rows.keys() - split_of.keys(), key=lambda group: (-rows[group], _shuffle_key(seed, group)))
    for done, group in enumerate(unassigned):
        must = empty and len(unassigned) - done <= len(empty)
        options = [split for split in SPLITS if (split in empty if must else fractions[split] > 0)]
        split = max(options, key=lambda option: missing[option])
        split_of[group] = split
        missing[split] -= rows[group]
        empty.discard(split)


def _shuffle_key(seed: int, group: str) -> str:
    """A random but repeatable sort key of a group, which is independent of the other groups."""
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
