"""Packed attention: every token of a packed sequence attends only to its row and its row's shared prefix.

A pack is one sequence: a prefix, the own tokens of the rows behind it, the next prefix, and so on.
The linear layers of a model process each unique token once. Only attention distinguishes rows, by slices
instead of a mask over the whole sequence, whose cost would be quadratic in its length.

It is registered with transformers under `NAME`, so any model that uses the attention interface can be
trained on packs; `packing.cannot_pack` tests whether a model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "graft_pack"
"""The name for `set_attn_implementation`."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Ragged:
    """A pack as variable-length sequences for a GPU kernel: each prefix, and each row behind its prefix.

    The queries of all sequences in order are the pack unchanged.
    """

    keys: Tensor
    """Index in the pack of each key of all sequences [n]."""
    query_ends: Tensor
    """Cumulative query lengths, from 0 [sequences + 1]."""
    key_ends: Tensor
    """Cumulative key lengths, from 0 [sequences + 1]."""
    longest_query: int
    """Queries of the longest sequence."""
    longest_key: int
    """Keys of the longest sequence."""

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Ragged:
        """The sequences of a pack's groups."""
        queries: list[int] = []
        keys: list[Tensor] = []
        for group in groups:
            prefix = torch.arange(group.start, group.start + group.prefix)
            lengths = (group.token_index // group.row_index.shape[1]).bincount().tolist()
            own = torch.arange(group.own_slice.start, group.own_slice.stop).split(lengths)
            queries += [group.prefix, *lengths] if group.prefix else lengths
            keys += [prefix] if group.prefix else []
            keys += [torch.cat([prefix, row]) for row in own]
        sizes = [len(sequence) for sequence in keys]
        return cls(torch.cat(keys), _ends(queries), _ends(sizes), max(queries), max(sizes))

    def to(self, *args: Any, **kwargs: Any) -> Ragged:
        """The same sequences on another device, as for a tensor."""
        keys, query_ends, key_ends = (x.to(*args, **kwargs) for x in (self.keys, self.query_ends, self.key_ends))
        return Ragged(keys, query_ends, key_ends, self.longest_query, self.longest_key)


def _ends(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([0, *sizes], dtype=torch.int32).cumsum(0, dtype=torch.int32)


@dataclass(frozen=True)
class Group:
    """Rows with one shared prefix in a pack: the prefix, then the own tokens of each row."""

    start: int
    """Position of the group's first token in the pack."""
    prefix: int
    """Tokens of the shared prefix; may be 0."""
    row_index: Tensor
    """Index of each row's tokens among the own tokens, padded on the right with the row's last one [rows, longest]."""
    token_index: Tensor
    """Index of each own token in the flattened `row_index` [tokens]."""

    @classmethod
    def of(cls, start: int, prefix: int, lengths: Sequence[int]) -> Group:
        """The group of rows with `lengths` own tokens."""
        sizes, columns = torch.tensor(lengths)[:, None], torch.arange(max(lengths))
        first = sizes.cumsum(0) - sizes
        return cls(start, prefix, first + columns.minimum(sizes - 1), (columns < sizes).flatten().nonzero()[:, 0])

    def to(self, *args: Any, **kwargs: Any) -> Group:
        """The same group on another device, as for a tensor."""
        return Group(self.start, self.prefix, self.row_index.to(*args, **kwargs), self.token_index.to(*args, **kwargs))

    @property
    def prefix_slice(self) -> slice:
        """The slice of the pack with the shared tokens."""
        return slice(self.start, self.start + self.prefix)

    @property
    def own_slice(self) -> slice:
        """The slice of the pack with the own tokens."""
        return slice(self.start + self.prefix, self.start + self.prefix + len(self.token_index))

    def rows(self, own: Tensor) -> Tensor:
        """Own tokens [heads, tokens, d] as rows [rows, heads, longest, d]."""
        return own.index_select(1, self.row_index.flatten()).unflatten(1, self.row_index.shape).transpose(0, 1)

    def tokens(self, rows: Tensor) -> Tensor:
        """Rows [rows, heads, longest, d] as own tokens [heads, tokens, d]."""
        return rows.transpose(0, 1).flatten(1, 2).index_select(1, self.token_index)

    def spread(self, own: Tensor) -> Tensor:
        """As `rows`, with zeros in the padding: the backward pass of `tokens`."""
        flat = own.new_zeros(own.shape[0], self.row_index.numel(), own.shape[2])
        return flat.index_copy_(1, self.token_index, own).unflatten(1, self.row_index.shape).transpose(0, 1)


class Cascade(torch.autograd.Function):
    """Cascade attention on a CPU: to the prefix and to the own tokens separately, merged by their log-sum-exp.

    All rows multiply with the one copy of their prefix's keys and values (Juravsky et al.,
    "Hydragen: High-Throughput LLM Inference with Shared Prefixes", 2024, arXiv 2402.05099, there
    for decoding). The backward pass needs no merging: a flash kernel computes the gradient from the
    whole output and the whole log-sum-exp, for any part of the keys (Dao, "FlashAttention-2",
    2023, arXiv 2307.08691, algorithm 2; Liu et al., "Ring Attention", 2023, arXiv 2310.01889).

    It always computes in float32: the kernel's backward pass in bfloat16 takes three times as long.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Group], scale: float) -> Tensor:
        """The attention of a pack [1, heads, tokens, d].

        Args:
            ctx: autograd's context.
            query: [1, heads, tokens, d].
            key: [1, kv heads, tokens, d].
            value: [1, kv heads, tokens, d].
            groups: the groups of the pack.
            scale: factor of the attention scores.
        """
        q, k, v = query[0].float(), key[0].float(), value[0].float()
        out = torch.empty(q.shape[1], q.shape[0], v.shape[2]).transpose(0, 1)
        log_sum = torch.empty(q.shape[:2])
        for group in groups:
            prefix, own = group.prefix_slice, group.own_slice
            rows = (group.rows(_repeat(x[:, own], q)) for x in (q, k, v))
            part, part_log_sum = _flash(*rows, 0.0, True, scale=scale)
            part, part_log_sum = group.tokens(part), group.tokens(part_log_sum.unsqueeze(-1))[..., 0]
            if group.prefix:
                alone = (_repeat(x[:, prefix], q).unsqueeze(0) for x in (q, k, v))
                first, first_log_sum = _flash(*alone, 0.0, True, scale=scale)
                out[:, prefix], log_sum[:, prefix] = first[0], first_log_sum[0]
                shared = _fold(q[:, own], k), k[None, :, prefix], v[None, :, prefix]
                behind, behind_log_sum = _flash(*shared, 0.0, False, scale=scale)
                behind, behind_log_sum = _unfold(behind, q), behind_log_sum.reshape(part_log_sum.shape)
                total = torch.logaddexp(part_log_sum, behind_log_sum)
                part = part * (part_log_sum - total).exp_()[..., None]
                part.addcmul_(behind, (behind_log_sum - total).exp_()[..., None])
                part_log_sum = total
            out[:, own], log_sum[:, own] = part, part_log_sum
        ctx.groups, ctx.scale = groups, scale
        result = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, log_sum)
        return result.unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        query, key, value, result, log_sum = ctx.saved_tensors
        q, k, v = query[0].float(), key[0].float(), value[0].float()
        out, grad = result.float(), gradient[0].float()
        dq, dk, dv = (torch.empty(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1) for x in (q, k, v))
        for group in ctx.groups:
            prefix, own = group.prefix_slice, group.own_slice
            rows = [group.rows(_repeat(x[:, own], q)) for x in (q, k, v)]
            outputs = group.spread(out[:, own]), group.rows(log_sum[:, own, None])[..., 0]
            parts = _flash_backward(group.spread(grad[:, own]), *rows, *outputs, 0.0, True, scale=ctx.scale)
            for total, part in zip((dq, dk, dv), parts, strict=True):
                total[:, own] = _reduce(group.tokens(part), total)
            if group.prefix:
                alone = [_repeat(x[:, prefix], q).unsqueeze(0) for x in (grad, q, k, v, out)]
                parts = _flash_backward(*alone, log_sum[None, :, prefix], 0.0, True, scale=ctx.scale)
                for total, part in zip((dq, dk, dv), parts, strict=True):
                    total[:, prefix] = _reduce(part[0], total)
                shared = _fold(q[:, own], k), k[None, :, prefix], v[None, :, prefix], _fold(out[:, own], k)
                folded = log_sum[:, own].reshape(1, len(k), -1)
                from_own = _flash_backward(_fold(grad[:, own], k), *shared, folded, 0.0, False, scale=ctx.scale)
                dq[:, own] += _unfold(from_own[0], q)
                dk[:, prefix] += from_own[1][0]
                dv[:, prefix] += from_own[2][0]
        grads = (x.unsqueeze(0).to(query.dtype) for x in (dq, dk, dv))
        return (*grads, None, None)  # type: ignore[return-value]


def _repeat(x: Tensor, queries: Tensor) -> Tensor:
    """Key heads [kv, tokens, d], each repeated for its query heads."""
    return x if len(x) == len(queries) else x.repeat_interleave(len(queries) // len(x), 0)


def _reduce(gradient: Tensor, like: Tensor) -> Tensor:
    """The sum over the query heads of each of `like`'s heads: the backward pass of `_repeat`."""
    return gradient if len(gradient) == len(like) else gradient.unflatten(0, (len(like), -1)).sum(1)


def _fold(queries: Tensor, keys: Tensor) -> Tensor:
    """Query heads [heads, tokens, d] as more queries of fewer heads [1, kv, heads / kv * tokens, d]; needs no mask."""
    return queries.reshape(1, len(keys), -1, queries.shape[2])


def _unfold(folded: Tensor, queries: Tensor) -> Tensor:
    return folded.reshape(len(queries), -1, folded.shape[3])


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float, window: int | None) -> Tensor:
    """Attention by the kernel that torch chooses, for queries at the keys' last positions; [rows, heads, tokens, d]."""
    ahead = torch.arange(k.shape[2], device=q.device) - torch.arange(k.shape[2], device=q.device)[-q.shape[2] :, None]
    seen = (ahead <= 0) & (ahead > -window) if window else ahead <= 0
    causal = k.shape[2] == q.shape[2] and not window
    mask = None if causal else seen
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=True
    )


def _grouped(
    query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Group], scale: float, dropout: float, window: int | None
) -> Tensor:
    """Attention by `_fused`, with the prefix's keys repeated for every row."""
    q, k, v = query[0], key[0], value[0]
    parts = []
    for group in groups:
        prefix, own = group.prefix_slice, group.own_slice
        queries, keys, values = (group.rows(x[:, own]) for x in (q, k, v))
        if group.prefix:
            first, first_keys, first_values = (x[None, :, prefix] for x in (q, k, v))
            parts.append(_fused(first, first_keys, first_values, scale, dropout, window)[0])
            keys, values = (
                torch.cat([shared.expand(len(rows), -1, -1, -1), rows], 2)
                for shared, rows in ((first_keys, keys), (first_values, values))
            )
        parts.append(group.tokens(_fused(queries, keys, values, scale, dropout, window)))
    return torch.cat(parts, 1).unsqueeze(0)


def _ragged(query: Tensor, key: Tensor, value: Tensor, ragged: Ragged, scale: float, window: int | None) -> Tensor:
    """Attention of all sequences in one call of the flash kernel [1, tokens, heads, d].

    Keys and values are gathered for each row, in float32: the gradient of a prefix is a sum over all of its rows.
    """
    both = torch.stack([key[0], value[0]]).float().index_select(2, ragged.keys).to(query.dtype).transpose(1, 2)
    left = window - 1 if window else -1
    out: Tensor = torch.ops.aten._flash_attention_forward(
        query[0].transpose(0, 1), both[0], both[1], ragged.query_ends, ragged.key_ends,
        ragged.longest_query, ragged.longest_key, 0.0, window is None, False,
        scale=scale, window_size_left=left, window_size_right=0,
    )[0]  # fmt: skip
    return out.unsqueeze(0)


def _takes_ragged(query: Tensor, value: Tensor) -> bool:
    """Whether the flash kernel supports this hardware, dtype and head size."""
    return query.is_cuda and query.dtype == torch.bfloat16 and query.shape[-1] == value.shape[-1] <= 256


def pack_attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    groups: Sequence[Group] = (),
    ragged: Ragged | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention over a pack, with the signature of transformers' attention interface.

    Args:
        _module: the attention layer; unused.
        query: [1, heads, tokens, d].
        key: [1, kv heads, tokens, d].
        value: [1, kv heads, tokens, d].
        _mask: unused, because `groups` define which tokens see each other.
        scaling: factor of the attention scores; None: 1 / sqrt(d).
        dropout: probability that an attention weight is dropped.
        sliding_window: tokens that a token sees, counted back from itself; None: all.
        groups: the groups of the pack.
        ragged: the same pack for the GPU kernel.
        **others: further arguments of the model.

    Returns:
        [1, tokens, heads, d], and no attention weights.

    Raises:
        ValueError: the model needs an unsupported feature (a soft cap, sinks, a bias).
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise ValueError(f"its attention needs `{name}`")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = (
        sliding_window
        if sliding_window and any(g.prefix + g.row_index.shape[1] > sliding_window for g in groups)
        else None
    )
    if ragged and not dropout and _takes_ragged(query, value):
        return _ragged(query, key, value, ragged, scale, window), None
    if query.device.type == "cpu" and not dropout and not window:
        out: Tensor = Cascade.apply(query, key, value, groups, scale)  # type: ignore[no-untyped-call]
    else:
        out = _grouped(query, key, value, groups, scale, dropout, window)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, pack_attention)
