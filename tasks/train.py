"""Stage `train`: fine-tune a LoRA adapter on the training examples.

transformers' Trainer provides the loop, the schedule and the checkpoints, peft the adapter. Graft adds
the collator (`packing`), a completion-only loss (on assistant turns), and the progress. Hu et al., "LoRA:
Low-Rank Adaptation of Large Language Models", 2021 (arXiv 2106.09685).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerState,
    TrainingArguments,
)

from tasks.core.errors import GraftError, run_main
from tasks.core.files import new_folder, sha256_file, write_json
from tasks.core.paths import BUILT_ADAPTER, BUILT_BASE, BUILT_GROUNDING, CHECKPOINTS, PROMPTS
from tasks.core.records import Example
from tasks.core.renamed_keys import old_names
from tasks.core.settings import Settings, TrainSettings, load_settings
from tasks.data.examples import load_examples
from tasks.engine.model_loading import load_model, load_quantized, training_dtype
from tasks.prompt.encoding import Prompt
from tasks.training.checkpoints import SealCallback, last_checkpoint
from tasks.training.loss_curve import draw
from tasks.training.packing import TokenRow, cannot_pack, enable_packing, pack, pad
from tasks.training.trainer import EVAL_ROWS, CompletionTrainer, LastStepCallback, ProgressCallback, TokenDataset

LOSS = "loss.json"
"""The Trainer's log of training and eval losses."""
METRICS = "metrics.json"
"""The metrics that `dvc metrics` compares."""
NAMED = 5
"""The number of omitted rows that are named."""


def encode(prompt: Prompt, examples: Sequence[Example], train: TrainSettings) -> TokenDataset:
    """Conversations as token rows, with decision tokens weighted `decision_token_weight` times.

    A conversation of more than `max_length` tokens is omitted and named, never truncated, because the
    truncation could remove its answer.
    """
    rows: list[TokenRow] = []
    too_long: list[str] = []
    for example in examples:
        ids, labels = prompt.encode_training(example.messages)
        if len(ids) > train.max_length:
            too_long.append(f"{example.id} ({len(ids)} tokens)")
            continue
        weights = [train.decision_token_weight if decides else 1.0 for decides in prompt.decision_mask(labels)]
        rows.append(TokenRow(input_ids=ids, labels=labels, weights=weights))
    if too_long:
        named = ", ".join(too_long[:NAMED]) + (", …" if len(too_long) > NAMED else "")
        left_out = f"{len(too_long)} of {len(examples)} rows are left out"
        print(f"train: {left_out}, longer than train.max_length ({train.max_length} tokens): {named}", flush=True)
    return TokenDataset(rows)


def run_key(settings: Settings, base: Path, examples: Path) -> str:
    """A hash of the inputs of a training run: a run resumes only from checkpoints with the same hash.

    It is the name of a folder on disk, so it covers the settings under their names of version 0.1.
    """
    inputs = [
        old_names("train", settings.train.model_dump(mode="json")),
        sha256_file(base / "base.json"),
        sha256_file(examples / "train.parquet"),
        *(sha256_file(path) for path in sorted(PROMPTS.iterdir()) if path.is_file()),
    ]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def arguments(train: TrainSettings, checkpoints: Path, steps: int, has_eval_rows: bool) -> TrainingArguments:
    """The Trainer's arguments; reports to tracking services are off.

    Args:
        train: the section `train` of `params.yaml`.
        checkpoints: folder of the checkpoints.
        steps: optimizer steps of the whole run.
        has_eval_rows: whether there are eval rows, and therefore a best checkpoint.
    """
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=train.epochs,
        per_device_train_batch_size=train.batch_size // train.num_workers,
        per_device_eval_batch_size=EVAL_ROWS,
        learning_rate=train.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(train.warmup_ratio * steps),
        weight_decay=0.0,
        seed=train.seed,
        save_strategy="steps",
        save_steps=train.save_steps,
        save_total_limit=2,
        eval_strategy="steps" if has_eval_rows else "no",
        eval_steps=train.save_steps,
        load_best_model_at_end=has_eval_rows,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=1,
        use_cpu=not torch.cuda.is_available(),
        bf16=training_dtype(train.dtype) == torch.bfloat16,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )


def tune(settings: Settings, base: Path, prompt: Prompt, examples: Path, checkpoints: Path, target: Path) -> None:
    """Train and write the adapter of the lowest eval loss, its loss history and its loss curve to `target`.

    A killed run resumes from its last intact checkpoint. No `test` example is read. If several workers
    call it together, each trains on its part of every batch and the first one writes.

    Args:
        settings: `params.yaml`.
        base: the base model's folder.
        prompt: the prompt code for this base.
        examples: the folder of the splits.
        checkpoints: folder of this run's checkpoints; see `run_key`.
        target: the adapter's folder.

    Raises:
        GraftError: there are no training examples, the batch cannot be divided among the workers, or the
            adapter is not finite or still zero.
    """
    train = settings.train
    if train.batch_size % train.num_workers:
        raise GraftError(
            f"params.yaml: train.batch_size {train.batch_size} is no multiple of train.num_workers {train.num_workers}"
        )
    rows = encode(prompt, load_examples(examples / "train.parquet"), train)
    held_out = encode(prompt, load_examples(examples / "eval.parquet"), train)
    if not len(rows):
        raise GraftError(f"{examples / 'train.parquet'}: no training examples of at most {train.max_length} tokens")
    steps = int(train.epochs * -(-len(rows) // train.batch_size))
    args = arguments(train, checkpoints, steps, has_eval_rows=len(held_out) > 0)
    dtype = training_dtype(train.dtype)
    model = load_quantized(base, dtype) if train.quantization == "nf4" else load_model(base, dtype).to(args.device)
    reason = cannot_pack(model, spread(rows.rows))
    if reason:
        print(f"train: {type(model).__name__} cannot share prefixes, rows are trained padded: {reason}", flush=True)
    adapted = with_adapter(model, train)
    trainer = CompletionTrainer(
        model=adapted,
        args=args,
        train_dataset=rows,
        eval_dataset=held_out if len(held_out) else None,
        data_collator=pad if reason else pack,
        bucket_batches=train.bucket_batches,
        callbacks=[
            ProgressCallback(sum(len(row["input_ids"]) for row in rows.rows) / len(rows) * train.batch_size),
            SealCallback(),
            LastStepCallback(),
            *([EarlyStoppingCallback(train.early_stopping_patience)] if len(held_out) else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.args.world_size != train.num_workers:
        here = f"this is one of {trainer.args.world_size}"
        raise GraftError(
            f"params.yaml: train.num_workers is {train.num_workers}, {here}: `python -m deployments.train` runs them"
        )
    with trainer.args.main_process_first(local=False):
        resume = last_checkpoint(checkpoints)
    if resume and trainer.is_world_process_zero():
        print(f"train: resuming from {resume.name}", flush=True)
    # peft would cast a layer's input to the adapter's float32, and autocast cast it back.
    with disable_input_dtype_casting(adapted), nullcontext() if reason else enable_packing(model), flushing():
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    check_adapter(adapted)
    if trainer.is_world_process_zero():
        write(adapted, trainer.state, target)


@contextmanager
def flushing() -> Iterator[None]:
    """Flush denormal numbers to zero, in this thread only: a CPU multiplies them many times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def with_adapter(model: Any, train: TrainSettings) -> Any:
    """The base with a new adapter of the configured shape, identical for the same seed."""
    torch.manual_seed(train.seed)
    shape = LoraConfig(
        task_type="CAUSAL_LM",
        r=train.lora_rank,
        lora_alpha=train.lora_alpha,
        lora_dropout=train.lora_dropout,
        target_modules=list(train.target_modules),
        layers_to_transform=list(range(train.first_adapted_layer, model.config.num_hidden_layers)),
    )
    return get_peft_model(model, shape)


def write(adapted: Any, state: TrainerState, target: Path) -> None:
    """Write the adapter, its loss history and curve, and the metrics for `dvc metrics`, completely or not at all."""
    history = [entry for entry in state.log_history if "loss" in entry or "eval_loss" in entry]
    metrics: dict[str, float] = {"steps": state.global_step}
    if state.best_global_step is not None and state.best_metric is not None:
        metrics |= {"kept_step": state.best_global_step, "eval_loss": round(state.best_metric, 4)}
        print(f"train: kept step {metrics['kept_step']}, eval loss {metrics['eval_loss']}", flush=True)
    with new_folder(target) as folder:
        adapted.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card; the package has its own
        write_json(folder / LOSS, history)
        write_json(folder / METRICS, metrics)
        draw(history, folder / "loss.png")


def spread(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """The shortest, the median and the longest of `rows`, for the trial run of `cannot_pack`."""
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def check_adapter(model: torch.nn.Module) -> None:
    """Refuse an invalid adapter: one with a value that is not finite, or one that changes nothing.

    Raises:
        GraftError: names the tensor.
    """
    weights = {name: value for name, value in model.named_parameters() if "lora_" in name}
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise GraftError(f"train: {name} is not finite; lower train.learning_rate in params.yaml")
    if not any(value.abs().max() > 0 for name, value in weights.items() if "lora_B" in name):
        raise GraftError("train: the adapter is identical to zero, so it has no effect; train for more steps")


def main() -> None:
    settings = load_settings()
    prompt = Prompt.load(PROMPTS, BUILT_BASE)
    checkpoints = CHECKPOINTS / run_key(settings, BUILT_BASE, BUILT_GROUNDING)
    tune(settings, BUILT_BASE, prompt, BUILT_GROUNDING, checkpoints, BUILT_ADAPTER)
    # The adapter is written, so a finished run's checkpoints are no longer needed.
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        shutil.rmtree(checkpoints, ignore_errors=True)


if __name__ == "__main__":
    run_main(main)
