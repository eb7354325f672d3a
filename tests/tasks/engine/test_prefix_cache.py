"""What the books say of a kept prefix is what OpenVINO computes: with one token a step, the steps can be counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.engine.prefix_cache import PrefixCacheModel
from tasks.engine.protocol import Engine, GenerationRequest, SamplingParams


def test_whole_blocks_of_the_same_beginning_are_known() -> None:
    blocks = PrefixCacheModel(size=4, room=10)
    assert blocks.cached_tokens(range(10)) == 0
    blocks.keep(range(10))
    assert blocks.cached_tokens(range(10)) == 8
    assert blocks.cached_tokens([*range(7), 99, 100]) == 4
    assert blocks.cached_tokens([99, *range(1, 10)]) == 0


def test_the_last_token_is_always_computed() -> None:
    blocks = PrefixCacheModel(size=4, room=10)
    blocks.keep(range(8))
    assert blocks.cached_tokens(range(8)) == 7


def test_the_block_that_was_used_longest_ago_goes_first() -> None:
    blocks = PrefixCacheModel(size=4, room=2)
    blocks.keep(range(5))
    blocks.keep(range(50, 55))
    assert blocks.cached_tokens(range(5)) == 4
    blocks.keep(range(90, 95))
    assert blocks.cached_tokens(range(5)) == 4
    assert blocks.cached_tokens(range(50, 55)) == 0


def steps_to_first_token(engine: Engine, key: int, prompt: list[int], new: int) -> tuple[int, int, list[int]]:
    """How many steps the prompt took, how much of it was said to be kept, and what followed."""
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
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.engine import openvino
    from tasks.engine.openvino_export import export
    from tasks.engine.resources import EXCLUSIVE

    monkeypatch.setattr(openvino, "_BATCHED_TOKENS", 1)
    export(tiny_base, None, tmp_path / "exported")
    unending = 255
    engine = openvino.OpenVinoEngine.load(
        tmp_path / "exported", tiny_base / "tokenizer.json", unending, "float32", EXCLUSIVE
    )
    prompt = [3 + (7 * place + place // 9) % 200 for place in range(100)]
    opening = prompt[:64]
    *_, answer = steps_to_first_token(engine, 0, opening, 40)
    told = [
        steps_to_first_token(engine, 1, opening, 2)[:2],
        steps_to_first_token(engine, 2, prompt, 2)[:2],
        steps_to_first_token(engine, 3, opening[:63], 2)[:2],
        steps_to_first_token(engine, 4, [*opening, *answer[:38], 9, 9], 2)[:2],
        steps_to_first_token(engine, 5, prompt[::-1], 2)[:2],
    ]
    assert told == [(1, 63), (36, 64), (31, 32), (8, 96), (100, 0)]
