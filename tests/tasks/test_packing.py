"""A pack's gradient is the gradient of its rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tasks.models import load_model
from tasks.packing import TokenRow, pack, packed_loss, shared_length
from tasks.prompt import IGNORED


def make_rows(seed: int, count: int, shared: int) -> list[TokenRow]:
    """Random rows that open alike for `shared` tokens, some with two turns of loss."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(size: int) -> list[int]:
        return torch.randint(3, 250, (size,), generator=generator).tolist()

    def turn(size: int, loss: int) -> tuple[list[int], list[int]]:
        asked, told = tokens(size), tokens(loss)
        return asked + told, [IGNORED] * size + told

    opening = tokens(shared)
    rows = []
    for number in range(count):
        ids, labels = list(opening), [IGNORED] * shared
        for _ in range(1 + number % 2):
            more, loss = turn(2 + number, 1 + number % 3)
            ids, labels = ids + more, labels + loss
        rows.append(TokenRow(input_ids=ids, labels=labels, weights=[1.0] * len(ids)))
    return rows


@pytest.fixture(scope="module")
def adapted(tiny_base: Path) -> Any:
    torch.manual_seed(1)
    model = get_peft_model(
        load_model(tiny_base, torch.float32), LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.05)
    return model


def gradients(model: Any, batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for batch in batches:
        (packed_loss(model, batch) * len(batch["targets"])).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shared", [0, 1, 17])
def test_gradient_equals_rows_alone(adapted: Any, seed: int, shared: int) -> None:
    rows = make_rows(seed, 5, shared)
    together = gradients(adapted, [pack(rows)])
    alone = gradients(adapted, [pack([row]) for row in rows])
    assert together.keys() == alone.keys()
    for name, gradient in alone.items():
        assert (together[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_loss_equals_the_models_own(adapted: Any) -> None:
    """Against transformers' loss on the same row, which knows nothing of packs."""
    row = make_rows(3, 1, 8)[0]
    own = adapted(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
    assert torch.allclose(packed_loss(adapted, pack([row])), own, rtol=1e-5)


def test_prefix_stops_before_what_is_predicted() -> None:
    """Two rows with one prompt and two answers: the last prompt token predicts both, so each keeps it."""
    rows = [
        TokenRow(input_ids=[5, 6, 7, 8], labels=[IGNORED, IGNORED, IGNORED, 8], weights=[1.0] * 4),
        TokenRow(input_ids=[5, 6, 7, 9], labels=[IGNORED, IGNORED, IGNORED, 9], weights=[1.0] * 4),
    ]
    assert shared_length(rows) == 2
    assert sorted(pack(rows)["targets"].tolist()) == [8, 9]


def test_a_weight_counts_as_that_many_tokens(adapted: Any) -> None:
    row = make_rows(4, 1, 6)[0]
    losses = []
    for weight in (1.0, 3.0):
        weighted = TokenRow(**{**row, "weights": [weight, *row["weights"][1:-1], weight]})
        losses.append(packed_loss(adapted, pack([weighted])).item())
    last = TokenRow(**{**row, "labels": [IGNORED] * (len(row["labels"]) - 1) + row["labels"][-1:]})
    alone = packed_loss(adapted, pack([last])).item()
    targets = sum(label != IGNORED for label in row["labels"])
    assert losses[1] == pytest.approx((losses[0] * targets + 2 * alone) / (targets + 2), rel=1e-4)
