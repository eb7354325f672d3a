"""Training benchmark (train) of Graft and TRL's SFTTrainer: rows per second, memory, and eval loss.

Both train the same rows, the same LoRA shape and the same number of optimizer steps at the same
learning rate, in turns, each in a process of its own, with shared prefixes of about 0, 60 and 450
tokens. TRL trains on completions only, in the mode that is fastest on this machine. The bound is 4 x parameters
x unique tokens at the matrix rate measured between the runs: a forward pass and the backward pass of
the activations, each 2 operations per parameter and token.

    python -m benchmarks.train --data banking77/train.csv

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from tokenizers import Tokenizer
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from tasks.core.errors import GraftError, run_main
from tasks.core.paths import BUILT_BASE
from tasks.engine.model_loading import load_model
from tasks.prompt.encoding import IGNORED
from tasks.training.packing import TokenRow, enable_packing, pack, pad, weighted_loss
from tasks.training.trainer import CompletionTrainer, TokenDataset

PREFIXES = (0, 60, 450)
TRL_MODES = ("padded", "padding_free", "packing", "padded_micro", "padding_free_micro")
"""Modes of TRL; `micro`: in micro-batches of `MICRO` rows, whose activations and logits need less memory."""
MICRO = 4
HELD_OUT = 64
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Run:
    """One training run, passed to its process as JSON."""

    trainer: str
    """`graft`, or `trl_` and a mode."""
    prefix: int
    """Length of the shared prefix, in tokens."""
    seed: int
    """Seed of rows and training."""
    steps: int
    """Optimizer steps."""
    batch: int
    """Rows per batch."""
    dtype: str
    """Name of the data type in torch."""
    data: str
    """CSV file with the columns text and category."""


@dataclass(frozen=True)
class RunResult:
    """The result of a run; rates are over all steps but the first."""

    rows_per_s: float
    """Rows per second."""
    tokens_per_s: float
    """Tokens per second, shared prefixes counted in each row."""
    unique_tokens_per_row: float
    """Tokens per row, with shared prefixes of a batch counted once."""
    peak_mb: float
    """Peak memory of the process until the last step, in MiB."""
    eval_loss: float
    """Loss on held-out rows, in nats per target token."""


def make_rows(data: Path, prefix: int, count: int, seed: int) -> list[TokenRow]:
    """Sample requests with their intents, each after the first tokens of a list of all intents.

    Args:
        data: CSV file with the columns text and category.
        prefix: number of tokens of the shared prefix.
        count: number of rows.
        seed: seed of the sample.
    """
    with data.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    tokenizer = Tokenizer.from_file(str(BUILT_BASE / "tokenizer.json"))
    intents = ", ".join(sorted({line["category"] for line in table}))
    opening = tokenizer.encode(f"<|im_start|>system\nAnswer with one of these intents: {intents}").ids[:prefix]
    rows = []
    for line in random.Random(seed).sample(table, count):
        request = tokenizer.encode(f"<|im_start|>user\n{line['text']}<|im_end|>\n<|im_start|>assistant\n").ids
        if not prefix:
            request = tokenizer.encode(f"{line['text']}\n").ids  # no shared tokens, not even the turn's beginning
        completion = tokenizer.encode(f"{line['category']}<|im_end|>").ids
        ids = opening + request + completion
        labels = [IGNORED] * (len(ids) - len(completion)) + completion
        rows.append(TokenRow(input_ids=ids, labels=labels, weights=[1.0] * len(ids)))
    return rows


class Clock(TrainerCallback):
    """A callback that records the end of each step, and the tokens of each collated batch."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def counting(self, collate: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        """`collate` with a count of the batch's tokens."""

        def counted(rows: Any) -> dict[str, Any]:
            batch = collate(rows)
            self.tokens.append(batch["input_ids"].numel())
            return batch

        return counted

    def seconds_per_step(self) -> float:
        """The mean duration of a step, over all steps but the first."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)

    def tokens_per_step(self) -> float:
        """The mean tokens of a step, over the same steps; the loader may have collated a batch beyond the last step."""
        return statistics.mean(self.tokens[1 : len(self.ends)])


def settings(run: Run, folder: str) -> dict[str, Any]:
    """The training arguments that both trainers get."""
    return {
        "output_dir": folder, "max_steps": run.steps, "per_device_train_batch_size": run.batch, "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine", "warmup_steps": 1, "weight_decay": 0.0, "seed": run.seed, "use_cpu": True,
        "bf16": run.dtype == "bfloat16", "save_strategy": "no", "logging_steps": 1, "report_to": [],
        "disable_tqdm": True, "gradient_checkpointing": False, "log_level": "error", "dataloader_pin_memory": False,
    }  # fmt: skip


def lora() -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM")


def graft_trainer(run: Run, model: Any, rows: Sequence[TokenRow], folder: str) -> Any:
    """Graft's trainer, with packed prefixes.

    Args:
        run: the run.
        model: the base model.
        rows: training rows.
        folder: output folder.
    """
    args = TrainingArguments(**settings(run, folder), remove_unused_columns=False)
    return CompletionTrainer(
        model=get_peft_model(model, lora()),
        args=args,
        train_dataset=TokenDataset(rows),
        data_collator=pack,
        bucket_batches=1,
    )


def trl_trainer(run: Run, model: Any, rows: Sequence[TokenRow], folder: str) -> Any:
    """TRL's trainer on the same tokens; a packed sequence has as many tokens as a batch has on average.

    Args:
        run: the run.
        model: the base model.
        rows: training rows.
        folder: output folder.
    """
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    mode = run.trainer.removeprefix("trl_")
    mask = [[int(label != IGNORED) for label in row["labels"]] for row in rows]
    table = Dataset.from_dict({"input_ids": [row["input_ids"] for row in rows], "completion_mask": mask})
    arguments = settings(run, folder)
    mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
    if mode == "packing":
        arguments |= {"packing": True, "max_length": round(mean * run.batch), "per_device_train_batch_size": 1}
    else:
        arguments |= {"padding_free": mode.startswith("padding_free"), "max_length": None}
    if mode.endswith("_micro"):
        arguments |= {"per_device_train_batch_size": MICRO, "gradient_accumulation_steps": run.batch // MICRO}
    if mode.startswith("padded"):
        arguments |= {"train_sampling_strategy": "group_by_length"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(BUILT_BASE / "tokenizer.json"), pad_token="<|im_end|>", eos_token="<|im_end|>"
    )
    config = SFTConfig(**arguments, completion_only_loss=True)
    return SFTTrainer(model=model, args=config, train_dataset=table, processing_class=tokenizer, peft_config=lora())


def train(run: Run) -> RunResult:
    """Train in this process."""
    rows = make_rows(Path(run.data), run.prefix, run.steps * run.batch + HELD_OUT, run.seed)
    rows, held_out = rows[HELD_OUT:], rows[:HELD_OUT]
    torch.manual_seed(run.seed)
    model = load_model(BUILT_BASE, getattr(torch, run.dtype))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        if run.trainer == "graft":
            trainer = graft_trainer(run, model, rows, folder)
            trainer.add_callback(clock)
            trainer.remove_callback(PrinterCallback)
            with enable_packing(model), disable_input_dtype_casting(trainer.model):
                trainer.train()
        else:
            trainer = trl_trainer(run, model, rows, folder)
            trainer.add_callback(clock)
            trainer.remove_callback(PrinterCallback)
            trainer.data_collator = clock.counting(trainer.data_collator)
            trainer.train()
    seconds, mean = clock.seconds_per_step(), statistics.mean(len(row["input_ids"]) for row in rows)
    # A packed sequence has no fixed number of rows, so it is computed from its tokens.
    done = clock.tokens_per_step() / mean if run.trainer == "trl_packing" else run.batch
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    unique = pack(rows[: run.batch])["input_ids"].numel()
    loss = held_out_loss(trainer.model, held_out)
    return RunResult(done / seconds, done / seconds * mean, unique / run.batch, peak_mb, loss)


def held_out_loss(model: Any, rows: Sequence[TokenRow]) -> float:
    """The loss on held-out rows in nats per target token, by the same padded float32 code for both trainers."""
    model.eval().float()
    total = count = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), 16):
            batch = pad(rows[start : start + 16])
            total += weighted_loss(model, batch).item()
            count += len(batch["targets"])
    return total / count


def matrix_rate(dtype: torch.dtype, seconds: float = 2.0) -> float:
    """The best rate of a matrix product of the model's shapes on this machine, in operations per second."""
    x, weight = torch.randn(1024, 576, dtype=dtype), torch.randn(1536, 576, dtype=dtype)
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        for _ in range(10):
            torch.nn.functional.linear(x, weight)
        best = max(best, 10 * 2 * x.numel() * len(weight) / (time.perf_counter() - start))
    return best


def in_a_process(run: Run) -> RunResult:
    """Train in a process of its own, so that peak memory is the run's own.

    Raises:
        GraftError: it failed; the message is the end of its output.
    """
    argv = [sys.executable, "-W", "ignore", "-m", "benchmarks.train", "--child", json.dumps(asdict(run))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GraftError(f"{run.trainer} at {run.prefix} tokens failed:\n{done.stderr[-2000:]}")
    result = RunResult(**json.loads(done.stdout.splitlines()[-1]))
    values = ", ".join(f"{name} {value:.4g}" for name, value in asdict(result).items())
    print(f"{run.trainer}, prefix {run.prefix}, seed {run.seed}: {values}", flush=True)
    return result


def fastest(run: Run) -> str:
    """TRL's fastest mode for this prefix, by one short run each; a mode that fails is left out."""
    rates = {}
    for mode in TRL_MODES:
        short = Run(**{**asdict(run), "trainer": f"trl_{mode}", "steps": 3})
        try:
            rates[short.trainer] = in_a_process(short).rows_per_s
        except GraftError as error:
            print(f"trl_{mode} is left out: {error}", flush=True)
    return max(rates, key=lambda name: rates[name])


def compare(options: argparse.Namespace) -> dict[str, float]:
    """Run all comparisons: medians over the seeds, and the worst bound, memory and loss difference of all prefixes."""
    dtype = getattr(torch, options.dtype)
    parameters = sum(value.numel() for value in load_model(BUILT_BASE, torch.float32).parameters())
    ratios: dict[str, float] = {}
    bounds: list[float] = []
    memory, losses = [], []
    for prefix in options.prefixes:
        first = Run("graft", prefix, 0, options.steps, options.batch, options.dtype, str(options.data))
        best = fastest(first)
        graft, trl, fractions = [], [], []
        for seed in range(options.seeds):
            run = Run(**{**asdict(first), "seed": seed})
            rate = matrix_rate(dtype)
            graft.append(in_a_process(run))
            trl.append(in_a_process(Run(**{**asdict(run), "trainer": best})))
            rate = max(rate, matrix_rate(dtype))
            fractions.append(4 * parameters * graft[-1].unique_tokens_per_row * graft[-1].rows_per_s / rate)
            print(f"matrix rate {rate / 1e9:.0f} GFLOP/s, Graft at {fractions[-1]:.2f} of the bound", flush=True)
        pairs = list(zip(graft, trl, strict=True))
        ratios[f"rows_ratio_{prefix}"] = statistics.median(a.rows_per_s / b.rows_per_s for a, b in pairs)
        bounds.append(statistics.median(fractions))
        memory.append(statistics.median(a.peak_mb / b.peak_mb for a, b in pairs))
        losses.append(statistics.mean(a.eval_loss - b.eval_loss for a, b in pairs))
        table(prefix, best, graft, trl, bounds[-1])
    worst = max(losses, key=abs)
    return {**ratios, "bound_fraction": min(bounds), "memory_ratio": max(memory), "eval_loss_diff": worst}


def table(prefix: int, best: str, graft: list[RunResult], trl: list[RunResult], bound: float) -> None:
    """Print one line of docs/benchmarks.md for each trainer.

    Args:
        prefix: length of the shared prefix, in tokens.
        best: TRL's fastest mode.
        graft: Graft's results, one per seed.
        trl: TRL's results, one per seed.
        bound: Graft's fraction of the bound.
    """
    for name, results, fraction in (("graft", graft, f"{bound:.2f}"), (best, trl, "")):
        rows, tokens, peak = (
            statistics.median(getattr(result, field) for result in results)
            for field in ("rows_per_s", "tokens_per_s", "peak_mb")
        )
        loss = ", ".join(f"{result.eval_loss:.3f}" for result in results)
        print(f"| {prefix} | {name} | {rows:.2f} | {tokens:.0f} | {peak:.0f} | {loss} | {fraction} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/banking77/train.csv"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prefixes", type=int, nargs="+", default=PREFIXES)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(asdict(train(Run(**json.loads(options.child))))))
        return
    for path in (options.data, BUILT_BASE):
        if not path.exists():
            hint = "pass a CSV with the columns text and category as --data; `dvc repro base` creates the base"
            raise GraftError(f"{path}: not found; {hint}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {options.dtype}; {versions}"
    )
    print(json.dumps(compare(options)))


if __name__ == "__main__":
    run_main(main)
