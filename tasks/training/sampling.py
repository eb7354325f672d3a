"""In which order training rows are taken: rows of like length share a batch, and batches come in random order.

transformers' `group_by_length` takes the batches of some hundred rows from the longest to the
shortest. Lengths go with request kinds, so a model trained in that order ends on the kinds with the
shortest rows, and answers everything as if it were one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import torch
from torch.utils.data import Sampler


class LengthBuckets(Sampler[int]):
    """Indices of which each `batch_size` in a row make a batch, every batch full.

    Rows are shuffled, cut into buckets of `bucket_batches` batches, sorted by length within each
    bucket, and the batches of all buckets are shuffled again. A larger bucket pads less and mixes
    less; one of one batch is a random order. Rows that the last batch lacks are taken from the
    beginning of the epoch once more. The order follows from `seed` and the epoch alone: a resumed
    run goes on in it, and workers who share out each batch see together what one alone would see.
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
            batches += [bucket[place : place + self.batch_size] for place in range(0, len(bucket), self.batch_size)]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place]
