"""Splits: deterministic, stratified by label, with whole groups, and every label in every split where possible."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from tasks.core.errors import GraftError
from tasks.data.splits import SPLITS, assign, shares

FRACTIONS = shares(0.2, 0.1)


def test_shares_hold_within_each_label() -> None:
    groups = [f"u{n}" for n in range(300)]
    labels = ["a" if n < 200 else "b" for n in range(300)]
    split_of = assign(groups, labels, FRACTIONS, seed=7)
    assert Counter(split_of[group] for group in groups[:200]) == {"train": 140, "eval": 40, "test": 20}
    assert Counter(split_of[group] for group in groups[200:]) == {"train": 70, "eval": 20, "test": 10}


def test_the_seed_decides_and_nothing_else() -> None:
    groups = [f"u{n}" for n in range(50)]
    first = assign(groups, ["a"] * 50, FRACTIONS, seed=7)
    assert assign(groups, ["a"] * 50, FRACTIONS, seed=7) == first
    assert assign(groups[::-1], ["a"] * 50, FRACTIONS, seed=7) == first
    assert assign(groups, ["a"] * 50, FRACTIONS, seed=8) != first


@pytest.mark.parametrize("seed", range(5))
def test_every_label_with_three_units_is_in_every_split(seed: int) -> None:
    chance = random.Random(seed)
    rows = [
        (f"{label}-{chance.randrange(size)}", label)
        for label, size in (("a", 40), ("b", 9), ("c", 3))
        for _ in range(60)
    ]
    split_of = assign([group for group, _ in rows], [label for _, label in rows], FRACTIONS, seed)
    for label in "abc":
        assert {split_of[group] for group, own in rows if own == label} == set(SPLITS)


def test_units_shared_by_labels_count_for_each_of_them() -> None:
    rows = [("x", "a"), ("x", "b"), ("y", "a"), ("z", "a"), ("v", "b"), ("w", "b")]
    split_of = assign([group for group, _ in rows], [label for _, label in rows], FRACTIONS, seed=1)
    seen = defaultdict(set)
    for group, label in rows:
        seen[label].add(split_of[group])
    assert seen["a"] == seen["b"] == set(SPLITS)


def test_a_rare_label_is_trained_on_first() -> None:
    assert assign(["only"], ["a"], FRACTIONS, seed=1) == {"only": "train"}
    assert sorted(assign(["one", "two"], ["a", "a"], FRACTIONS, seed=1).values()) == ["eval", "train"]


def test_a_split_without_a_share_stays_empty() -> None:
    assert set(assign(list("abcdef"), ["x"] * 6, shares(0.3, 0.0), seed=1).values()) == {"train", "eval"}


def test_something_must_be_left_to_train_on() -> None:
    with pytest.raises(GraftError, match="nothing to train on"):
        shares(0.6, 0.4)


def test_a_large_split_group_counts_by_its_rows_and_not_as_one() -> None:
    groups = ["large"] * 10 + [f"small {number}" for number in range(10)]
    split_of = assign(groups, ["a"] * 20, {"train": 0.5, "eval": 0.25, "test": 0.25}, seed=0)
    assert split_of["large"] == "train"
    assert Counter(split_of[group] for group in groups) == {"train": 10, "eval": 5, "test": 5}
