"""Which group of rows goes to train, eval or test: by stratum (label), deterministic, groups whole."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from tasks.core.errors import GraftError

Split = Literal["train", "eval", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def shares(eval_fraction: float, test_fraction: float) -> dict[Split, float]:
    """The share of rows per split.

    Raises:
        GraftError: nothing would be left to train on.
    """
    train_share = 1.0 - eval_fraction - test_fraction
    if train_share <= 0.0:
        raise GraftError(
            f"params.yaml: prepare.eval_fraction {eval_fraction} and test_fraction {test_fraction} "
            "leave nothing to train on"
        )
    return {"train": train_share, "eval": eval_fraction, "test": test_fraction}


def assign(units: Sequence[str], labels: Sequence[str], wanted: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """The split of each unit.

    A unit is what must not be torn apart; `units[i]` and `labels[i]` are those of row i. Labels are
    taken from the rarest up, and each label's units from the largest down: a unit goes where the
    label lacks most rows, except that the last units go to splits without the label. So a label
    has a row in each wanted split if it has as many units as there are splits to fill.
    """
    rows_of: dict[str, Counter[str]] = defaultdict(Counter)
    for unit, label in zip(units, labels, strict=True):
        rows_of[label][unit] += 1
    chosen: dict[str, Split] = {}
    for label in sorted(rows_of, key=lambda name: (len(rows_of[name]), name)):
        _assign_label(rows_of[label], wanted, seed, chosen)
    return chosen


def _assign_label(rows: Mapping[str, int], wanted: Mapping[Split, float], seed: int, chosen: dict[str, Split]) -> None:
    """Assign one label's units (unit -> rows) that no other label has assigned yet."""
    total = sum(rows.values())
    missing = {split: share * total for split, share in wanted.items()}
    empty = {split for split in SPLITS if wanted[split] > 0}
    for unit in rows.keys() & chosen.keys():
        missing[chosen[unit]] -= rows[unit]
        empty.discard(chosen[unit])
    waiting = sorted(rows.keys() - chosen.keys(), key=lambda unit: (-rows[unit], _shuffled(seed, unit)))
    for done, unit in enumerate(waiting):
        must = empty and len(waiting) - done <= len(empty)
        options = [split for split in SPLITS if (split in empty if must else wanted[split] > 0)]
        split = max(options, key=lambda option: missing[option])
        chosen[unit] = split
        missing[split] -= rows[unit]
        empty.discard(split)


def _shuffled(seed: int, unit: str) -> str:
    """A random but repeatable place for a unit: it does not move when other units come or go."""
    return hashlib.sha256(f"{seed}:{unit}".encode()).hexdigest()
