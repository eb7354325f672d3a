"""A batch of training rows in which what rows share is there once.

Chat rows begin alike (system prompt, tool schemas, label lists). A pack is one sequence that holds
each shared prefix once and then the rows' own tokens, without padding; `attention` lets each token
see what it would see alone. So the gradient is that of training the rows one by one, for a fraction
of the arithmetic. A batch may hold several kinds of rows: the prefixes are found per group.

A model that cannot take packs gets the same rows padded (`pad`), at the full price.
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
"""What a prefix must save to be worth its own, smaller, matrix products; about their price on a CPU."""


class TokenRow(TypedDict):
    """One conversation: token ids [length], labels [length] with `IGNORED` where no loss is, and
    how much each label counts, `weights` [length].
    """

    input_ids: list[int]
    labels: list[int]
    weights: list[float]


class PackedBatch(TypedDict):
    """Rows, and how many tokens of their openings are computed once."""

    rows: list[TokenRow]
    shared: int


def shareable(row: TokenRow) -> int:
    """How many tokens of `row` may be shared: a position has one target, so all before the first that has one."""
    return max(next(i for i, label in enumerate(row["labels"]) if label != IGNORED) - 1, 0)


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the opening that two rows share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def group(rows: Sequence[TokenRow]) -> list[PackedBatch]:
    """The rows parted so that the fewest tokens are computed.

    In sorted order the best groups are runs: the cheapest way to part the first n rows is found
    from those to part fewer, each group taken with its shared prefix or, if that is too short, none.
    """
    ordered = sorted(rows, key=lambda row: row["input_ids"])
    limits = [shareable(row) for row in ordered]
    alike = [_common_prefix(a["input_ids"], b["input_ids"]) for a, b in pairwise(ordered)]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # cost of the first n rows; the last group's start and prefix
    for end in range(1, len(ordered) + 1):
        shared, found = limits[end - 1], []
        for start in range(end - 1, -1, -1):
            if start < end - 1:
                shared = min(shared, limits[start], alike[start])
            saved = shared * (end - start - 1) - GROUP_TOKENS
            found.append((best[start][0] + GROUP_TOKENS - max(saved, 0), start, shared if saved > 0 else 0))
        best.append(min(found))
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
    """Rows of any lengths as one sequence.

    Returns:
        input_ids and position_ids [1, tokens]; groups and ragged, as `attention` reads them; and for
        each target its `targets` [n], `target_weights` [n] and the place that predicts it, `places` [n].
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
    """The same rows one under the other, padded on the right, for a model that takes no packs.

    Returns:
        input_ids and attention_mask [rows, longest]; targets as in `pack`, places counted over the
        flat batch.
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
    """(place, target, weight) of each token with a loss, for a row whose first token is at `start`."""
    for place, (label, weight) in enumerate(zip(row["labels"], row["weights"], strict=True)):
        if label != IGNORED:
            yield start + place - 1, label, weight  # a position predicts the token after it


def _targets(predictions: Sequence[tuple[int, int, float]]) -> dict[str, torch.Tensor]:
    places, targets, weights = zip(*predictions, strict=True)
    return {
        "places": torch.tensor(places),
        "targets": torch.tensor(targets),
        "target_weights": torch.tensor(weights),
    }


def target_logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The model's logits [n, vocabulary] where a batch predicts its n targets; the output head runs there alone."""
    inputs = {name: value for name, value in batch.items() if name not in ("places", "targets", "target_weights")}
    with _head_on(model, batch["places"]):
        return model(**inputs, use_cache=False).logits[0]


def weighted_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Cross entropy (nats) summed over a batch's targets, each times its weight."""
    losses = cross_entropy(target_logits(model, batch).float(), batch["targets"], reduction="none")
    return (losses * batch["target_weights"]).sum()


@contextmanager
def _head_on(model: Any, places: torch.Tensor) -> Iterator[None]:
    """Within the block the output head sees only the flat batch's hidden states at `places` [n], as [1, n, hidden].

    A hook on the head, not a call of it: what an architecture does to its logits afterwards (a
    scale, a soft cap) still happens.
    """
    head = getattr(model, "module", model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].flatten(0, 1)[places].unsqueeze(0),))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def enable_packing(model: Any) -> Iterator[None]:
    """Within the block the model's attention understands packs."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def cannot_pack(model: Any, rows: Sequence[TokenRow]) -> str | None:
    """Why `model` cannot be trained on packs; None if it computes from a pack of `rows` what it does from each alone.

    An architecture may not know position ids, not ask the attention interface, or carry a state
    from one token to the next. Trying it out finds all of these. To be called outside of
    `taking_packs`, with the model not in training (its dropout would differ).
    """
    ordered = [row for grouped in group(rows) for row in grouped["rows"]]
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
    return f"its logits from a pack differ by {difference:.1%} from those of the rows alone"
