"""In which order training rows are taken: rows of like length share a batch, and batches come in random order.

transformers' `group_by_length` takes the batches of some hundred rows from the longest to the
shortest. Lengths go with request kinds, so a model trained in that order ends on the kinds with the
shortest rows, and answers everything as if it were one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class LengthBuckets(Sampler[int]):
    """Indices of which each `batch_size` in a row make a batch.

    Rows are shuffled, cut into buckets of `bucket_batches` batches, sorted by length within each
    bucket, and the batches of all buckets are shuffled again. A larger bucket pads less and mixes
    less. The order follows from `seed` and the epoch alone, so that a resumed run goes on in it.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, bucket_batches: int = 8) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.bucket = batch_size * bucket_batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        batches = []
        for start in range(0, len(order), self.bucket):
            bucket = sorted(order[start : start + self.bucket], key=lambda row: self.lengths[row])
            batches += [bucket[place : place + self.batch_size] for place in range(0, len(bucket), self.batch_size)]
        # Only a batch that is not full must stay at the end: what follows it would slip into it.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        for place in torch.randperm(len(full), generator=generator).tolist():
            yield from full[place]
        for batch in rest:
            yield from batch
