"""The prefix-cache model agrees with OpenVINO's cache: with one token per step, the computed tokens can be counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.engine.prefix_cache import PrefixCacheModel
from tasks.engine.protocol import Engine, GenerationRequest, SamplingParams


def test_whole_blocks_of_the_same_beginning_are_known() -> None:
    cache = PrefixCacheModel(block_size=4, capacity=10)
    assert cache.cached_tokens(range(10)) == 0
    cache.keep(range(10))
    assert cache.cached_tokens(range(10)) == 8
    assert cache.cached_tokens([*range(7), 99, 100]) == 4
    assert cache.cached_tokens([99, *range(1, 10)]) == 0


def test_the_last_token_is_always_computed() -> None:
    cache = PrefixCacheModel(block_size=4, capacity=10)
    cache.keep(range(8))
    assert cache.cached_tokens(range(8)) == 7


def test_the_block_that_was_used_longest_ago_goes_first() -> None:
    cache = PrefixCacheModel(block_size=4, capacity=2)
    cache.keep(range(5))
    cache.keep(range(50, 55))
    assert cache.cached_tokens(range(5)) == 4
    cache.keep(range(90, 95))
    assert cache.cached_tokens(range(5)) == 4
    assert cache.cached_tokens(range(50, 55)) == 0


def steps_to_first_token(engine: Engine, key: int, prompt: list[int], new: int) -> tuple[int, int, list[int]]:
    """The number of steps that the prompt took, its cached tokens as reported, and the answer's token ids."""
    engine.submit(key, GenerationRequest(tuple(prompt), SamplingParams(new)))
    chunks = []
    steps = 0
    while not chunks:
        steps += 1
        chunks += engine.step()
    while not chunks[-1].finish_reason:
        chunks += engine.step()
    return steps, chunks[0].cached_tokens, [token for chunk in chunks for token in chunk.token_ids]


def test_openvino_computes_what_is_not_said_to_be_kept(
    tiny_base: Path, tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.engine import openvino
    from tasks.engine.resources import EXCLUSIVE

    monkeypatch.setattr(openvino, "_BATCHED_TOKENS", 1)
    unending = 255
    engine = openvino.OpenVinoEngine.load(tiny_export, tiny_base / "tokenizer.json", unending, "float32", EXCLUSIVE)
    prompt = [3 + (7 * index + index // 9) % 200 for index in range(100)]
    opening = prompt[:64]
    *_, answer = steps_to_first_token(engine, 0, opening, 40)
    steps_and_cached = [
        steps_to_first_token(engine, 1, opening, 2)[:2],
        steps_to_first_token(engine, 2, prompt, 2)[:2],
        steps_to_first_token(engine, 3, opening[:63], 2)[:2],
        steps_to_first_token(engine, 4, [*opening, *answer[:38], 9, 9], 2)[:2],
        steps_to_first_token(engine, 5, prompt[::-1], 2)[:2],
    ]
    assert steps_and_cached == [(1, 63), (36, 64), (31, 32), (8, 96), (100, 0)]
