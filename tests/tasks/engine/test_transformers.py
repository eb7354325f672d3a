"""The reference engine: a batch says what each row says alone, and transformers' own greedy search too."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tasks.engine.protocol import Engine, Generation, GenerationRequest, generate
from tasks.engine.resources import ALONE
from tasks.engine.transformers import TransformersEngine, shared_prefix
from tasks.models import load_model

END = 2
PROMPTS = [(1, 40, 50, 60, 70), (1, 40, 50, 61), (1, 40, 50, 60, 71, 80, 90, 99), (1, 40, 50, 9)]


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> TransformersEngine:
    return TransformersEngine.load(tiny_base, None, END, "float32", ALONE)


def requests(**options: object) -> list[GenerationRequest]:
    return [GenerationRequest(prompt, **{"max_new_tokens": 12, **options}) for prompt in PROMPTS]  # type: ignore[arg-type]


def together(engine: Engine, asked: list[GenerationRequest]) -> list[Generation]:
    return [generation for _, generation in sorted(generate(engine, asked, len(asked)), key=itemgetter(0))]


def test_a_batch_says_what_each_row_says_alone(engine: TransformersEngine) -> None:
    found = together(engine, requests())
    alone = [together(engine, [request])[0] for request in requests()]
    assert [g.token_ids for g in found] == [g.token_ids for g in alone]
    assert [g.text for g in found] == [g.text for g in alone]


def test_who_comes_later_says_the_same_and_who_leaves_disturbs_nobody(engine: TransformersEngine) -> None:
    """Rows join and leave in different steps, with prompts of different lengths."""
    asked = [
        GenerationRequest(prompt, size) for prompt, size in zip(PROMPTS * 2, (3, 9, 5, 12, 7, 1, 12, 4), strict=True)
    ]
    alone = [together(engine, [request])[0].token_ids for request in asked]
    found: dict[int, tuple[int, ...]] = dict.fromkeys(range(len(asked)), ())
    for key, request in enumerate(asked):
        engine.submit(key, request)
        for chunk in engine.step():
            found[chunk.key] += chunk.token_ids
        if key == 4:
            engine.cancel(3)
    while chunks := engine.step():
        for chunk in chunks:
            found[chunk.key] += chunk.token_ids
    assert found.pop(3) == alone[3][:2]
    assert found == {key: ids for key, ids in enumerate(alone) if key != 3}


def test_a_key_that_is_open_is_refused(engine: TransformersEngine) -> None:
    engine.submit(1, requests()[0])
    with pytest.raises(ValueError, match="request 1 is open"):
        engine.submit(1, requests()[1])
    engine.cancel(1)
    assert engine.step() == []


def test_logprobs_are_those_of_the_model(engine: TransformersEngine) -> None:
    request = GenerationRequest(PROMPTS[0], 5, temperature=1.5, seed=2, logprobs=True)
    engine.submit(0, request)
    chunks = [chunk for _ in range(5) for chunk in engine.step()]
    ids = [*PROMPTS[0], *(chunk.token_ids[0] for chunk in chunks)]
    with torch.no_grad():
        expected = engine.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    for place, chunk in enumerate(chunks, len(PROMPTS[0])):
        assert chunk.logprobs == pytest.approx((expected[place - 1, ids[place]].item(),), abs=1e-4)


def test_greedy_equals_transformers_generate(engine: TransformersEngine, tiny_base: Path) -> None:
    model = load_model(tiny_base, torch.float32)
    for request, found in zip(requests(), together(engine, requests()), strict=True):
        ids = torch.tensor([request.prompt_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert list(found.token_ids) == expected[0, len(request.prompt_ids) :].tolist()


def test_what_the_last_batch_opened_with_is_not_computed_again(
    engine: TransformersEngine, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Openings that grow, shrink, part and come again: the answers of a fresh engine, from fewer tokens."""
    opening = tuple(range(20, 60))
    rests = [(70, 71), (70, 71, 72, 73), (90,), (70, 99), (91, 92)]
    prompts = [*(opening + rest for rest in rests), (5, 6, 7), (*opening[:10], 80)]
    computed = []
    forward = TransformersEngine._forward

    def counted(self: TransformersEngine, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        computed.append(ids.numel())
        return forward(self, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformersEngine, "_forward", counted)
    for prompt in prompts:
        request = GenerationRequest(prompt, 1)
        fresh = TransformersEngine.load(tiny_base, None, END, "float32", ALONE)
        before = len(computed)
        expected = fresh._prefill([request])[0]
        alone = sum(computed[before:])
        before = len(computed)
        found = engine._prefill([request])[0]
        torch.testing.assert_close(found, expected)
        if prompt[:40] == opening and prompt != prompts[0]:
            assert sum(computed[before:]) < 6 < alone


def test_a_seed_repeats_a_sample_in_any_batch(engine: TransformersEngine) -> None:
    sampled = requests(temperature=1.0, top_p=0.9, seed=11)
    found = [g.token_ids for g in together(engine, sampled)]
    assert found == [together(engine, [request])[0].token_ids for request in sampled]
    other = [g.token_ids for g in together(engine, requests(temperature=1.0, top_p=0.9, seed=12))]
    assert found != other


def test_a_stop_string_is_not_part_of_the_text(engine: TransformersEngine) -> None:
    whole = together(engine, requests()[:1])[0].text
    stop = whole[3:5]
    stopped = together(engine, [GenerationRequest(PROMPTS[0], 12, stop=(stop,))])[0]
    assert (stopped.text, stopped.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_streamed_text_adds_up_and_half_characters_wait(engine: TransformersEngine) -> None:
    tokenizer: Tokenizer = engine.tokenizer
    for key, request in enumerate(requests(temperature=2.0, seed=3)):
        engine.submit(key, request)
    chunks = [chunk for _ in range(12) for chunk in engine.step()]
    for key in range(len(PROMPTS)):
        own = [chunk for chunk in chunks if chunk.key == key]
        ids = [token for chunk in own for token in chunk.token_ids]
        assert "".join(chunk.text for chunk in own) == tokenizer.decode(ids, skip_special_tokens=True)
        assert [chunk.finish_reason for chunk in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason is not None


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [([(1, 2, 3), (1, 2, 4)], (1, 2)), ([(1, 2), (1, 2)], (1,)), ([(1,), (2,)], ()), ([(7, 8, 9)], (7, 8))],
)
def test_every_row_keeps_a_token_of_its_own(prompts: list[tuple[int, ...]], shared: tuple[int, ...]) -> None:
    assert shared_prefix(prompts) == shared
