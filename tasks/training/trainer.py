"""The LoRA trainer: transformers' Trainer with packed batches and a completion-only loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.utils.data import Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy

from tasks.core.progress import Progress
from tasks.training.packing import TokenRow, weighted_loss
from tasks.training.sampling import LengthBuckets

EVAL_ROWS = 32
"""Rows in a batch of the eval loss, which stores no activations."""


class TokenDataset(Dataset[TokenRow]):
    """A dataset of encoded conversations."""

    def __init__(self, rows: Sequence[TokenRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        return self.rows[index]


class CompletionTrainer(Trainer):
    """A Trainer whose loss is the weighted mean cross entropy over a step's assistant tokens.

    The mean is over all micro-batches and workers of an optimizer step, so neither changes the
    gradient.

    Args:
        bucket_batches: see `LengthBuckets`, which orders the rows.
        **arguments: the arguments of transformers' `Trainer`.
    """

    def __init__(self, *, bucket_batches: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._bucket_batches = bucket_batches
        self.loss_is_scaled_for_ga = True  # `compute_loss` divides by the whole step's weight

    def _get_train_sampler(self, train_dataset: Dataset[TokenRow] | None = None) -> LengthBuckets:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        assert isinstance(rows, TokenDataset)
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthBuckets([len(row["input_ids"]) for row in rows.rows], step, self.args.seed, self._bucket_batches)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        weight = torch.stack([batch["target_weights"].sum() for batch in batch_samples]).sum()
        return self.accelerator.reduce(weight.to(device), "sum")

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of one micro-batch: its weighted sum over the weight of the whole step.

        Args:
            model: the model in training.
            inputs: a batch of `pack` or `pad`.
            return_outputs: whether to return outputs beside the loss, as transformers' `Trainer` requires.
            num_items_in_batch: the weight of all targets of the optimizer step, over all workers.
        """
        assert num_items_in_batch is not None
        # The factor cancels the averaging of gradients over the workers, because the loss is a sum over them.
        loss = weighted_loss(model, inputs) * self.args.world_size / num_items_in_batch
        return (loss, {"loss": loss}) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The eval loss: the weighted mean over all targets of the eval rows, not the mean of their batches' means."""
        held_out = eval_dataset or self.eval_dataset
        assert isinstance(held_out, TokenDataset)
        rows = sorted(held_out.rows, key=lambda row: len(row["input_ids"]))
        size = self.args.per_device_eval_batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        total = torch.zeros(2, device=self.args.device)
        model = self.accelerator.unwrap_model(self.model).eval()
        with torch.no_grad():
            for members in batches[self.args.process_index :: self.args.world_size]:
                # The Trainer's own method would not move `groups` and `ragged`, which are no tensors.
                batch = send_to_device(self.data_collator(members), self.args.device)  # type: ignore[arg-type]
                total += torch.stack([weighted_loss(model, batch), batch["target_weights"].sum()])
        loss, weight = self.accelerator.reduce(total, "sum").tolist()
        metrics = {f"{metric_key_prefix}_loss": loss / weight}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class LastStepCallback(TrainerCallback):
    """Evaluates and saves the last step too, because it may be the best."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = args.eval_strategy != IntervalStrategy.NO


class ProgressCallback(TrainerCallback):
    """Prints the progress of training: steps, tokens per second and time left."""

    def __init__(self, tokens_per_step: float) -> None:
        self.tokens_per_step = tokens_per_step
        self._progress: Progress | None = None
        self._start = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self._progress is None:
            self._start = state.global_step - 1
            self._progress = Progress("train", state.max_steps, "steps", "tokens", done=self._start)
        self._progress.update(state.global_step, (state.global_step - self._start) * self.tokens_per_step)
