"""Prefix packing: the gradient of a pack equals that of its rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from tasks.engine.model_loading import load_model
from tasks.prompt.encoding import IGNORED
from tasks.training.packing import TokenRow, cannot_pack, enable_packing, group, pack, pad, weighted_loss


def make_rows(seed: int, count: int, shared: int) -> list[TokenRow]:
    """Random rows that share their first `shared` tokens, some with two turns that have a loss."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(size: int) -> list[int]:
        return torch.randint(3, 250, (size,), generator=generator).tolist()

    def turn(size: int, loss: int) -> tuple[list[int], list[int]]:
        question, answer = tokens(size), tokens(loss)
        return question + answer, [IGNORED] * size + answer

    opening = tokens(shared)
    rows = []
    for number in range(count):
        ids, labels = list(opening), [IGNORED] * shared
        for _ in range(1 + number % 2):
            more, loss = turn(2 + number, 1 + number % 3)
            ids, labels = ids + more, labels + loss
        rows.append(TokenRow(input_ids=ids, labels=labels, weights=[1.0] * len(ids)))
    return rows


SHAPE = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
# The spread is large, because with weights near zero every architecture gives the same logits for every context.
SPREAD = {"initializer_range": 0.3}

TAKES_PACKS = {
    "llama": LlamaConfig(**SHAPE, **SPREAD),
    "qwen": Qwen3Config(**SHAPE, **SPREAD),
    "mistral, window within the rows": MistralConfig(**SHAPE, **SPREAD, sliding_window=8),
    "gemma": Gemma3TextConfig(**SHAPE, **SPREAD, sliding_window=8),
}
REFUSES_PACKS = {
    "mamba": MambaConfig(vocab_size=256, hidden_size=32, state_size=8, num_hidden_layers=2, **SPREAD),
    "bloom": BloomConfig(vocab_size=256, hidden_size=32, n_layer=2, n_head=4, **SPREAD),
    "gemma with a soft cap": Gemma2Config(**SHAPE, **SPREAD),
}


def random_model(config: PretrainedConfig) -> Any:
    torch.manual_seed(2)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def with_adapter(model: Any) -> Any:
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"]))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.05)
    return adapted


@pytest.fixture(scope="module")
def adapted(tiny_base: Path) -> Any:
    return with_adapter(load_model(tiny_base, torch.float32))


def gradients(model: Any, batches: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for batch in batches:
        weighted_loss(model, batch).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def same_gradients(model: Any, rows: list[TokenRow]) -> None:
    """Compare a pack of `rows` with each row alone, in the architecture's own attention."""
    alone = gradients(model, [pad([row]) for row in rows])
    with enable_packing(model):
        together = gradients(model, [pack(rows)])
    assert together.keys() == alone.keys()
    for name, gradient in alone.items():
        assert (together[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shared", [0, 1, 17, 90])
def test_gradient_equals_rows_alone(adapted: Any, seed: int, shared: int) -> None:
    same_gradients(adapted, make_rows(seed, 5, shared))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_batch_may_hold_several_prefixes(adapted: Any, seed: int) -> None:
    """The batch has rows of two system prompts and rows that share nothing."""
    kinds = [
        make_rows(seed, 3, 60),
        make_rows(seed + 10, 4, 45),
        make_rows(seed + 20, 1, 0),
        make_rows(seed + 30, 1, 9),
    ]
    rows = [row for kind in kinds for row in kind]
    assert sorted(grouped["shared"] for grouped in group(rows)) == [0, 45, 60]
    assert pack(rows)["input_ids"].shape[1] == sum(len(row["input_ids"]) for row in rows) - 2 * 60 - 3 * 45
    same_gradients(adapted, rows)


@pytest.mark.parametrize("name", TAKES_PACKS)
def test_families_that_take_packs(name: str) -> None:
    model, rows = random_model(TAKES_PACKS[name]), make_rows(5, 5, 40)
    assert cannot_pack(model, rows) is None
    same_gradients(with_adapter(model), rows)


@pytest.mark.parametrize("name", REFUSES_PACKS)
def test_families_that_do_not_are_found_out(name: str) -> None:
    assert cannot_pack(random_model(REFUSES_PACKS[name]), make_rows(5, 5, 40))


def test_padding_changes_no_gradient(adapted: Any) -> None:
    rows = make_rows(6, 5, 3)
    together, alone = gradients(adapted, [pad(rows)]), gradients(adapted, [pad([row]) for row in rows])
    for name, gradient in alone.items():
        assert (together[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_loss_equals_the_models_own(adapted: Any) -> None:
    """The reference is transformers' loss on the same row without packing."""
    row = make_rows(3, 1, 8)[0]
    own = adapted(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
    batch = pack([row])
    with enable_packing(adapted):
        assert torch.allclose(weighted_loss(adapted, batch) / len(batch["targets"]), own, rtol=1e-5)


def test_prefix_stops_before_what_is_predicted() -> None:
    """With one prompt and two answers the last prompt token predicts both, so each row keeps its own."""
    prompt = list(range(5, 60))
    rows = [
        TokenRow(input_ids=[*prompt, end], labels=[*([IGNORED] * len(prompt)), end], weights=[1.0] * (len(prompt) + 1))
        for end in (70, 80)
    ]
    (grouped,) = group(rows)
    assert grouped["shared"] == len(prompt) - 1
    assert sorted(pack(rows)["targets"].tolist()) == [70, 80]


def test_a_weight_counts_as_that_many_tokens(adapted: Any) -> None:
    row = make_rows(4, 1, 6)[0]
    with enable_packing(adapted):
        once, thrice = (
            weighted_loss(adapted, pack([TokenRow(**{**row, "weights": [weight] * len(row["weights"])})])).item()
            for weight in (1.0, 3.0)
        )
    assert thrice == pytest.approx(3 * once, rel=1e-5)
