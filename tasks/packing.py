"""A batch of training rows behind one copy of the opening that they share.

Chat rows begin alike (system prompt, tool schemas). The shared prefix is computed once and its
keys and values are repeated for every row; the rows' own tokens follow as a batch, padded on the
left. Each token has exactly the context it has alone, and gradients flow back through the repeated
keys into the one prefix, so the gradient is that of training the rows one by one, for a fraction of
the arithmetic. Attention costs rows x own x (prefix + own), where one long packed sequence with a
block mask would cost the square of its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from tasks.prompt import IGNORED


class TokenRow(TypedDict):
    """One conversation: token ids [length], labels [length] with `IGNORED` where no loss is, and
    how much each label counts, `weights` [length].
    """

    input_ids: list[int]
    labels: list[int]
    weights: list[float]


def context_length(row: TokenRow) -> int:
    """How many tokens come before the first one that is predicted."""
    return next(i for i, label in enumerate(row["labels"]) if label != IGNORED)


def shared_length(rows: Sequence[TokenRow]) -> int:
    """The length of the opening that all rows share, and that can be computed once.

    Each row keeps the token before its first prediction to itself: a shared position can have one
    target only.
    """
    limit = min(context_length(row) for row in rows) - 1
    first, last = min(row["input_ids"] for row in rows), max(row["input_ids"] for row in rows)
    return next((i for i in range(limit) if first[i] != last[i]), max(limit, 0))


def pack(rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
    """Rows of any lengths as the tensors that `packed_loss` takes.

    Returns:
        prefix_ids [1, shared]; input_ids, position_ids [rows, own]; attention_mask
        [rows, shared + own]; logits_to_keep [kept], the columns in which any row predicts; and for
        each of the batch's `targets` [n], its `target_weights` [n], its row `target_rows` [n] and
        its place among the kept columns `target_columns` [n].
    """
    shared = shared_length(rows)
    own = max(len(row["input_ids"]) for row in rows) - shared
    input_ids = torch.zeros((len(rows), own), dtype=torch.long)
    mask = torch.zeros((len(rows), shared + own), dtype=torch.long)
    mask[:, :shared] = 1
    labels = torch.full((len(rows), own), IGNORED)
    weights = torch.zeros((len(rows), own))
    for number, row in enumerate(rows):
        start = own - (len(row["input_ids"]) - shared)
        input_ids[number, start:] = torch.tensor(row["input_ids"][shared:])
        mask[number, shared + start :] = 1
        # A position predicts the token after it.
        labels[number, start : own - 1] = torch.tensor(row["labels"][shared + 1 :])
        weights[number, start : own - 1] = torch.tensor(row["weights"][shared + 1 :])
    kept = (labels != IGNORED).any(0).nonzero().squeeze(-1)
    target_rows, target_columns = (labels[:, kept] != IGNORED).nonzero(as_tuple=True)
    return {
        "prefix_ids": torch.tensor([rows[0]["input_ids"][:shared]], dtype=torch.long),
        "input_ids": input_ids,
        "position_ids": (mask.cumsum(-1) - 1)[:, shared:],
        "attention_mask": mask,
        "logits_to_keep": kept,
        "target_rows": target_rows,
        "target_columns": target_columns,
        "targets": labels[:, kept][target_rows, target_columns],
        "target_weights": weights[:, kept][target_rows, target_columns],
    }


def packed_loss(model: PreTrainedModel | torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Weighted mean cross entropy (nats per token) over a pack's targets.

    The output head runs on the targets' positions alone.
    """
    cache = DynamicCache()
    if batch["prefix_ids"].shape[1]:
        model(input_ids=batch["prefix_ids"], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(batch["input_ids"].shape[0])
    with _head_on(model, batch["target_rows"], batch["target_columns"]):
        outputs = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=batch["attention_mask"],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=batch["logits_to_keep"],
        )
    losses = cross_entropy(outputs.logits[0].float(), batch["targets"], reduction="none")
    return (losses * batch["target_weights"]).sum() / batch["target_weights"].sum()


@contextmanager
def _head_on(model: PreTrainedModel | torch.nn.Module, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Within the block the output head sees only the hidden states at (`rows` [n], `columns` [n]), as [1, n, hidden].

    A hook on the head, not a call of it: what an architecture does to its logits afterwards (a
    scale, a soft cap) still happens.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns].unsqueeze(0),))
    try:
        yield
    finally:
        hook.remove()
