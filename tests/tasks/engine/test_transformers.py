"""The transformers engine beyond the protocol: it agrees with transformers' own greedy search and caches prefixes.

Also covers `tasks/engine/model_loading.py`.
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.engine.model_loading import load_model
from tasks.engine.protocol import Engine, Generation, GenerationRequest, SamplingParams, generate
from tasks.engine.resources import EXCLUSIVE
from tasks.engine.transformers import TransformersEngine, _masked, shared_prefix

END = 2
PROMPTS = [(1, 40, 50, 60, 70), (1, 40, 50, 61), (1, 40, 50, 60, 71, 80, 90, 99), (1, 40, 50, 9)]


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> TransformersEngine:
    return TransformersEngine.load(tiny_base, None, END, "float32", EXCLUSIVE)


def requests(**options: Any) -> list[GenerationRequest]:
    return [GenerationRequest(prompt, SamplingParams(**{"max_new_tokens": 12, **options})) for prompt in PROMPTS]


def together(engine: Engine, batch: list[GenerationRequest]) -> list[Generation]:
    return [generation for _, generation in sorted(generate(engine, batch, len(batch)), key=itemgetter(0))]


def test_greedy_equals_transformers_generate(engine: TransformersEngine, tiny_base: Path) -> None:
    model = load_model(tiny_base, torch.float32)
    for request, generation in zip(requests(), together(engine, requests()), strict=True):
        ids = torch.tensor([request.prompt_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert list(generation.token_ids) == expected[0, len(request.prompt_ids) :].tolist()


def test_what_the_last_batch_opened_with_is_not_computed_again(
    engine: TransformersEngine, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared prefix grows, shrinks, diverges and returns: the logits equal a fresh engine's, from fewer tokens."""
    opening = tuple(range(20, 60))
    rests = [(70, 71), (70, 71, 72, 73), (90,), (70, 99), (91, 92)]
    prompts = [*(opening + rest for rest in rests), (5, 6, 7), (*opening[:10], 80)]
    computed = []
    forward = TransformersEngine._forward

    def counted(self: TransformersEngine, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        computed.append(ids.numel())
        return forward(self, ids, *rest)

    monkeypatch.setattr(TransformersEngine, "_forward", counted)
    for prompt in prompts:
        request = GenerationRequest(prompt, SamplingParams(1))
        fresh = TransformersEngine.load(tiny_base, None, END, "float32", EXCLUSIVE)
        before = len(computed)
        expected = fresh._prefill([request])[0]
        alone = sum(computed[before:])
        before = len(computed)
        logits = engine._prefill([request])[0]
        torch.testing.assert_close(logits, expected)
        if prompt[:40] == opening and prompt != prompts[0]:
            assert sum(computed[before:]) < 6 < alone


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [([(1, 2, 3), (1, 2, 4)], (1, 2)), ([(1, 2), (1, 2)], (1,)), ([(1,), (2,)], ()), ([(7, 8, 9)], (7, 8))],
)
def test_every_row_keeps_a_token_of_its_own(prompts: list[tuple[int, ...]], shared: tuple[int, ...]) -> None:
    assert shared_prefix(prompts) == shared


@pytest.mark.parametrize(
    ("width", "expected"), [(2, [False, True]), (3, [False, True, True]), (5, [False, True, True, False, False])]
)
def test_logits_are_masked_whatever_their_width(width: int, expected: list[bool]) -> None:
    logits = _masked(torch.ones(width), bytes([0, 200, 200]))
    assert logits.isfinite().tolist() == expected
