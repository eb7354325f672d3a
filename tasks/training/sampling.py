"""Sampling order of training rows: rows of similar length share a batch, and batches come in random order.

transformers' `group_by_length` orders the batches of some hundred rows from the longest to the shortest.
Length correlates with the kind of request, so a model trained in that order ends on the kinds with the
shortest rows, and answers every request as if it were of such a kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import torch
from torch.utils.data import Sampler


class LengthBuckets(Sampler[int]):
    """Row indices, of which each consecutive `batch_size` form a batch; every batch is full.

    Rows are shuffled, cut into buckets of `bucket_batches` batches, sorted by length within each
    bucket, and the batches of all buckets are shuffled again. A larger bucket pads less and mixes
    less; a bucket of one batch gives a random order. The last batch is filled with rows from the
    beginning of the epoch. The order depends only on `seed` and the epoch: a resumed run continues
    in it, and workers that divide each batch see together the rows that a single worker would see.

    Args:
        lengths: tokens of each row.
        batch_size: rows of an optimizer step, over all workers.
        seed: seed of the shuffling.
        bucket_batches: batches in a bucket.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, bucket_batches: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.bucket = batch_size * bucket_batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        order = list(islice(cycle(order), len(self)))
        batches = []
        for start in range(0, len(order), self.bucket):
            bucket = sorted(order[start : start + self.bucket], key=lambda row: self.lengths[row])
            batches += [bucket[first : first + self.batch_size] for first in range(0, len(bucket), self.batch_size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index]
