"""Prefix packing of training rows: a batch is one sequence in which each shared prefix stands once.

Chat rows share their beginning (system prompt, tool schemas, label lists). A pack is one sequence that holds
each shared prefix once and then the rows' own tokens, without padding; in `packed_attention` each token
sees the same tokens as in its row alone. The gradient therefore equals that of training the rows one by one,
for a fraction of the computation. A batch may hold several kinds of rows: prefixes are found per group.

A model that does not support packs gets the same rows padded (`pad`), at the full cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypedDict

import torch
from accelerate.utils import send_to_device
from torch.nn.functional import cross_entropy

from tasks.prompt.encoding import IGNORED
from tasks.training.packed_attention import NAME, Group, Ragged

GROUP_TOKENS = 32
"""Tokens that a prefix must save to be worth its own, smaller, matrix products; about their cost on a CPU."""


class TokenRow(TypedDict):
    """One encoded conversation."""

    input_ids: list[int]
    """Token ids [length]."""
    labels: list[int]
    """Target token ids [length]; `IGNORED` where there is no loss."""
    weights: list[float]
    """Weight of each label in the loss [length]."""


class PackedBatch(TypedDict):
    """Rows that share a prefix."""

    rows: list[TokenRow]
    """The rows, each with the prefix."""
    shared: int
    """Tokens of the prefix, which is computed once; 0 if the rows share none."""


def shareable(row: TokenRow) -> int:
    """The number of tokens of `row` that may be shared: those before the first position that predicts a target.

    Two rows may differ in the target, and a shared position can predict only one.
    """
    return max(next(i for i, label in enumerate(row["labels"]) if label != IGNORED) - 1, 0)


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common prefix of two rows, in tokens."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def group(rows: Sequence[TokenRow]) -> list[PackedBatch]:
    """The partition of the rows into groups with the fewest computed tokens.

    In sorted order the best groups are runs, so dynamic programming applies: the cheapest partition of the
    first n rows follows from those of fewer rows, each group with its shared prefix or, if that is too short, none.
    """
    ordered = sorted(rows, key=lambda row: row["input_ids"])
    limits = [shareable(row) for row in ordered]
    common = [_common_prefix(a["input_ids"], b["input_ids"]) for a, b in pairwise(ordered)]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # cost of the first n rows; the last group's start and prefix
    for end in range(1, len(ordered) + 1):
        shared, candidates = limits[end - 1], []
        for start in range(end - 1, -1, -1):
            if start < end - 1:
                shared = min(shared, limits[start], common[start])
            saved = shared * (end - start - 1) - GROUP_TOKENS
            candidates.append((best[start][0] + GROUP_TOKENS - max(saved, 0), start, shared if saved > 0 else 0))
        best.append(min(candidates))
    groups: list[PackedBatch] = []
    alone = PackedBatch(rows=[], shared=0)
    end = len(ordered)
    while end:
        _, start, shared = best[end]
        if shared:
            groups.append(PackedBatch(rows=ordered[start:end], shared=shared))
        else:
            alone["rows"] += ordered[start:end]
        end = start
    return [*groups, alone] if alone["rows"] else groups


def pack(rows: Sequence[TokenRow]) -> dict[str, Any]:
    """Rows of any lengths packed into one sequence.

    Returns:
        input_ids and position_ids [1, tokens]; groups and ragged, for `packed_attention`; and for each
        target its token id, `targets` [n], its weight, `target_weights` [n], and the index in the flat
        batch of the token that predicts it, `target_indices` [n].
    """
    ids: list[int] = []
    positions: list[int] = []
    groups: list[Group] = []
    predictions: list[tuple[int, int, float]] = []
    for members in group(rows):
        shared = members["shared"]
        first = members["rows"][0]
        groups.append(Group.of(len(ids), shared, [len(row["input_ids"]) - shared for row in members["rows"]]))
        ids += first["input_ids"][:shared]
        positions += range(shared)
        for row in members["rows"]:
            predictions += _predictions(row, len(ids) - shared)
            ids += row["input_ids"][shared:]
            positions += range(shared, len(row["input_ids"]))
    sequence = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions])}
    return {**sequence, "groups": groups, "ragged": Ragged.of(groups), **_targets(predictions)}


def pad(rows: Sequence[TokenRow]) -> dict[str, Any]:
    """The same rows as a batch padded on the right, for a model that does not support packs.

    Returns:
        input_ids and attention_mask [rows, longest]; targets as in `pack`.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    predictions: list[tuple[int, int, float]] = []
    for number, row in enumerate(rows):
        ids[number, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask[number, : len(row["input_ids"])] = 1
        predictions += _predictions(row, number * longest)
    return {"input_ids": ids, "attention_mask": mask, **_targets(predictions)}


def _predictions(row: TokenRow, start: int) -> Iterator[tuple[int, int, float]]:
    """(index, target, weight) of each token with a loss, for a row that starts at `start` in the flat batch."""
    for position, (label, weight) in enumerate(zip(row["labels"], row["weights"], strict=True)):
        if label != IGNORED:
            yield start + position - 1, label, weight  # a position predicts the token after it


def _targets(predictions: Sequence[tuple[int, int, float]]) -> dict[str, torch.Tensor]:
    indices, targets, weights = zip(*predictions, strict=True)
    return {
        "target_indices": torch.tensor(indices),
        "targets": torch.tensor(targets),
        "target_weights": torch.tensor(weights),
    }


def target_logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The model's logits [n, vocabulary] for the n targets of a batch; the output head runs only at their indices."""
    targets = ("target_indices", "targets", "target_weights")
    inputs = {name: value for name, value in batch.items() if name not in targets}
    with _head_on(model, batch["target_indices"]):
        return model(**inputs, use_cache=False).logits[0]


def weighted_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The weighted sum of the cross entropy (nats) over a batch's targets."""
    losses = cross_entropy(target_logits(model, batch).float(), batch["targets"], reduction="none")
    return (losses * batch["target_weights"]).sum()


@contextmanager
def _head_on(model: Any, indices: torch.Tensor) -> Iterator[None]:
    """Within the block the output head sees only the flat batch's hidden states at `indices` [n], as [1, n, hidden].

    A hook on the head is used instead of a call of it, so that the architecture's own processing of
    logits (a scale, a soft cap) still applies.
    """
    head = getattr(model, "module", model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].flatten(0, 1)[indices].unsqueeze(0),))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def enable_packing(model: Any) -> Iterator[None]:
    """Within the block the model uses packed attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def cannot_pack(model: Any, rows: Sequence[TokenRow]) -> str | None:
    """The reason why `model` cannot be trained on packs; None if a pack of `rows` gives the logits of each row alone.

    An architecture may ignore position ids, bypass the attention interface, or carry a state from one
    token to the next. A trial run detects all of these. Call it outside of `enable_packing`, with the
    model not in training mode (its dropout would differ).
    """
    ordered = [row for batch in group(rows) for row in batch["rows"]]
    with torch.no_grad():
        alone = torch.cat([target_logits(model, send_to_device(pad([row]), model.device)) for row in ordered]).float()
        try:
            with enable_packing(model):
                packed = target_logits(model, send_to_device(pack(rows), model.device)).float()
        except (TypeError, ValueError, RuntimeError) as error:
            return str(error).splitlines()[0]
    difference = ((packed - alone).norm() / alone.norm()).item()
    if difference <= torch.finfo(model.dtype).eps ** 0.5:
        return None
    return f"its logits for a pack differ by {difference:.1%} from those for the rows alone"
