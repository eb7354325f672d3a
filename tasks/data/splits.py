"""Which group of rows goes to train, eval or test: by stratum (label), deterministic, groups whole."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from tasks.core.errors import GraftError

Split = Literal["train", "eval", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def shares(eval_share: float, test_share: float) -> dict[Split, float]:
    """The share of rows per split.

    Raises:
        GraftError: nothing would be left to train on.
    """
    train_share = 1.0 - eval_share - test_share
    if train_share <= 0.0:
        raise GraftError(
            f"params.yaml: prepare.eval_share {eval_share} and test_share {test_share} leave nothing to train on"
        )
    return {"train": train_share, "eval": eval_share, "test": test_share}


def assign(
    groups: Sequence[str], labels: Sequence[str], fractions: Mapping[Split, float], seed: int
) -> dict[str, Split]:
    """The split of each unit.

    A unit is what must not be torn apart; `units[i]` and `labels[i]` are those of row i. Labels are
    taken from the rarest up, and each label's units from the largest down: a unit goes where the
    label lacks most rows, except that the last units go to splits without the label. So a label
    has a row in each wanted split if it has as many units as there are splits to fill.
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
    """Assign one label's units (unit -> rows) that no other label has assigned yet."""
    total = sum(rows.values())
    missing = {split: fraction * total for split, fraction in fractions.items()}
    empty = {split for split in SPLITS if fractions[split] > 0}
    for unit in rows.keys() & split_of.keys():
        missing[split_of[unit]] -= rows[unit]
        empty.discard(split_of[unit])
    waiting = sorted(rows.keys() - split_of.keys(), key=lambda unit: (-rows[unit], _shuffle_key(seed, unit)))
    for done, unit in enumerate(waiting):
        must = empty and len(waiting) - done <= len(empty)
        options = [split for split in SPLITS if (split in empty if must else fractions[split] > 0)]
        split = max(options, key=lambda option: missing[option])
        split_of[unit] = split
        missing[split] -= rows[unit]
        empty.discard(split)


def _shuffle_key(seed: int, group: str) -> str:
    """A random but repeatable place for a unit: it does not move when other units come or go."""
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
