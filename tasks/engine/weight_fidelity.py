"""Weight fidelity: the quantization loss of exported weights against their float32 model, on reference conversations.

Both models see the same conversations (teacher forcing), and only assistant turns count. The comparison is
of weights; the stage `evaluate` measures the quality of answers, on the engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from tasks.engine.model_loading import load_merged
from tasks.engine.openvino_export import MODEL
from tasks.model_package.manifest import Fidelity
from tasks.prompt.encoding import IGNORED

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids [length] and labels [length] of a conversation, as `Prompt.encode_training` returns them."""


def measure_fidelity(base: Path, adapter: Path | None, exported: Path, rows: Sequence[Row]) -> Fidelity:
    """Compare exported weights with the float32 model that they were made from.

    Args:
        base: the base model's folder.
        adapter: the LoRA adapter's folder; None if the base alone was exported.
        exported: the folder of the exported weights.
        rows: the conversations, at least one.
    """
    reference, served = load_merged(base, adapter, torch.float32), _ExportedModel(exported)
    tokens = agreed = 0
    loss = reference_loss = 0.0
    for ids, labels in rows:
        positions = [position for position in range(1, len(labels)) if labels[position] != IGNORED]
        before, targets = [position - 1 for position in positions], [labels[position] for position in positions]
        with torch.inference_mode():
            expected = reference(torch.tensor([list(ids)])).logits[0, before].float()
        actual = torch.from_numpy(served.logits(ids)[before])
        tokens += len(positions)
        agreed += int((expected.argmax(-1) == actual.argmax(-1)).sum())
        reference_loss += _loss(expected, targets)
        loss += _loss(actual, targets)
    return Fidelity(
        rows=len(rows),
        tokens=tokens,
        perplexity=round(math.exp(loss / tokens), 4),
        float32_perplexity=round(math.exp(reference_loss / tokens), 4),
        greedy_agreement=round(agreed / tokens, 4),
    )


def _loss(logits: torch.Tensor, targets: Sequence[int]) -> float:
    """The sum of -log p over `targets` [tokens], by `logits` [tokens, vocabulary]."""
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="sum"))


class _ExportedModel:
    """The exported weights as a function from token ids to logits."""

    def __init__(self, folder: Path) -> None:
        import openvino

        self._request: Any = openvino.Core().compile_model(str(folder / MODEL), "CPU").create_infer_request()

    def logits(self, ids: Sequence[int]) -> Any:
        """Logits [length, vocabulary] of one conversation."""
        self._request.reset_state()
        inputs = {
            "input_ids": numpy.array([ids], numpy.int64),
            "attention_mask": numpy.ones((1, len(ids)), numpy.int64),
            "position_ids": numpy.arange(len(ids), dtype=numpy.int64)[None],
            "beam_idx": numpy.zeros(1, numpy.int32),
        }
        return self._request.infer(inputs)["logits"][0]
