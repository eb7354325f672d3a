"""Packed attention: the sequences for the GPU kernel, compared with the slices of the other implementations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tasks.training.packed_attention import _grouped, _ragged, pack_attention
from tasks.training.packing import pack
from tests.tasks.training.test_packing import make_rows

HEADS, KV_HEADS, SIZE = 6, 2, 32


def make_pack() -> tuple[dict[str, Any], list[Tensor]]:
    """A pack of rows with two prefixes and without one, and random queries, keys and values [1, heads, tokens, d]."""
    batch = pack([*make_rows(0, 4, 60), *make_rows(1, 3, 45), *make_rows(2, 1, 0), *make_rows(3, 1, 9)])
    tokens = batch["input_ids"].shape[1]
    generator = torch.Generator().manual_seed(4)
    return batch, [torch.randn(1, heads, tokens, SIZE, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS)]


def test_each_sequence_is_a_prefix_or_a_row_behind_its_prefix() -> None:
    batch, (query, key, value) = make_pack()
    expected, _ = pack_attention(torch.nn.Module(), query, key, value, None, groups=batch["groups"])
    ragged, parts = batch["ragged"], []
    queries = query.split(ragged.query_ends.diff().tolist(), 2)
    for own, seen in zip(queries, ragged.keys.split(ragged.key_ends.diff().tolist()), strict=True):
        assert own.shape[2] <= ragged.longest_query
        assert len(seen) <= ragged.longest_key
        mask = torch.ones(own.shape[2], len(seen), dtype=torch.bool).tril(len(seen) - own.shape[2])
        keys, values = key[:, :, seen], value[:, :, seen]
        parts.append(scaled_dot_product_attention(own, keys, values, attn_mask=mask, enable_gqa=True))
    assert torch.allclose(torch.cat(parts, 2).transpose(1, 2), expected, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [None, 8])
def test_the_kernel_for_ragged_sequences_says_what_slices_say(window: int | None) -> None:
    """The kernel runs in bfloat16 and the slices in float32; outputs and gradients are compared."""
    batch, tensors = make_pack()
    batch, tensors = send_to_device((batch, tensors), "cuda")
    rough = [tensor.bfloat16().requires_grad_() for tensor in tensors]
    exact = [tensor.detach().float().requires_grad_() for tensor in rough]
    expected = _grouped(*exact, batch["groups"], SIZE**-0.5, 0.0, window).transpose(1, 2)
    output = _ragged(*rough, batch["ragged"], SIZE**-0.5, window)
    expected.square().sum().backward()
    output.float().square().sum().backward()
    pairs = [(output, expected), *((tensor.grad, other.grad) for tensor, other in zip(rough, exact, strict=True))]
    for tensor, other in pairs:
        assert tensor is not None
        assert other is not None
        assert (tensor - other).norm() <= 3e-2 * other.norm()
