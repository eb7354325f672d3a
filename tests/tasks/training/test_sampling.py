"""Sampling: batches of similar length, in an order that is independent of length."""

from __future__ import annotations

import random
from itertools import pairwise

from tasks.training.sampling import LengthBuckets

LENGTHS = random.Random(3).choices(range(10, 300), k=1003)
BATCH = 8


def batches(order: list[int]) -> list[list[int]]:
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def padded(order: list[int]) -> int:
    """The number of tokens computed when each batch is padded to its longest row."""
    return sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches(order))


def test_every_row_comes_and_the_last_batch_is_filled() -> None:
    """There are 1,003 rows in batches of 8, so five rows come twice."""
    sampler = LengthBuckets(LENGTHS, BATCH, seed=1, bucket_batches=8)
    order = list(sampler)
    assert len(order) == len(sampler) == 1008
    assert sorted(set(order)) == list(range(len(LENGTHS)))


def test_fewer_rows_than_a_batch_are_repeated() -> None:
    order = list(LengthBuckets([5, 9, 7], BATCH, seed=1, bucket_batches=8))
    assert len(order) == BATCH
    assert set(order) == {0, 1, 2}


def test_like_lengths_share_a_batch() -> None:
    shuffled = random.Random(1).sample(range(len(LENGTHS)), len(LENGTHS))
    waste = padded(list(LengthBuckets(LENGTHS, BATCH, seed=1, bucket_batches=8))) - sum(LENGTHS)
    assert waste < 0.4 * (padded(shuffled) - sum(LENGTHS))


def test_a_bucket_of_one_batch_is_a_random_order() -> None:
    shuffled = random.Random(1).sample(range(len(LENGTHS)), len(LENGTHS))
    waste = padded(list(LengthBuckets(LENGTHS, BATCH, seed=1, bucket_batches=1))) - sum(LENGTHS)
    assert 0.9 < waste / (padded(shuffled) - sum(LENGTHS)) < 1.1


def test_length_says_nothing_of_when_a_batch_comes() -> None:
    """In an order from long to short, hardly any batch would be longer than the one before."""
    means = [
        sum(LENGTHS[row] for row in batch) / len(batch) for batch in batches(list(LengthBuckets(LENGTHS, 8, 1, 8)))
    ]
    up = sum(after > before for before, after in pairwise(means))
    assert 0.4 < up / (len(means) - 1) < 0.6
    thirds = [sum(means[start : start + 42]) / 42 for start in (0, 42, 84)]
    assert max(thirds) - min(thirds) < 0.2 * sum(means) / len(means)


def test_the_order_follows_from_seed_and_epoch() -> None:
    first, same, other = (LengthBuckets(LENGTHS, BATCH, seed, 8) for seed in (1, 1, 2))
    assert list(first) == list(first) == list(same) != list(other)
    same.set_epoch(1)
    assert list(first) != list(same)
