"""Training with Graft and with TRL's SFTTrainer: rows per second, memory, and what is learnt.

Both train the same rows, the same LoRA shape and the same number of optimizer steps at the same
learning rate, in turns, each in a process of its own, behind openings of about 0, 60 and 450
tokens. TRL trains on completions only, in its mode that is fastest here. The bound is 4 x parameters
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
"""`micro`: in micro-batches of `MICRO` rows, whose activations and logits fit where a whole batch's do not."""
MICRO = 4
HELD_OUT = 64
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Run:
    """One training run; printed and read back as JSON."""

    trainer: str
    prefix: int
    seed: int
    steps: int
    batch: int
    dtype: str
    data: str


@dataclass(frozen=True)
class Outcome:
    """What a run gave: rates over all steps but the first, and the process's peak memory until the last."""

    rows_per_s: float
    tokens_per_s: float
    unique_tokens_per_row: float
    peak_mb: float
    eval_loss: float


def make_rows(data: Path, prefix: int, count: int, seed: int) -> list[TokenRow]:
    """`count` requests and their intents, behind the first `prefix` tokens of a list of all intents."""
    with data.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    tokenizer = Tokenizer.from_file(str(BUILT_BASE / "tokenizer.json"))
    intents = ", ".join(sorted({line["category"] for line in table}))
    opening = tokenizer.encode(f"<|im_start|>system\nAnswer with one of these intents: {intents}").ids[:prefix]
    rows = []
    for line in random.Random(seed).sample(table, count):
        asked = tokenizer.encode(f"<|im_start|>user\n{line['text']}<|im_end|>\n<|im_start|>assistant\n").ids
        if not prefix:
            asked = tokenizer.encode(f"{line['text']}\n").ids  # nothing in common, not even the turn's beginning
        told = tokenizer.encode(f"{line['category']}<|im_end|>").ids
        ids = opening + asked + told
        labels = [IGNORED] * (len(ids) - len(told)) + told
        rows.append(TokenRow(input_ids=ids, labels=labels, weights=[1.0] * len(ids)))
    return rows


class Clock(TrainerCallback):
    """The times at which steps ended, and the tokens of each batch that was taken."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def counting(self, collate: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        """`collate`, counted."""

        def counted(rows: Any) -> dict[str, Any]:
            batch = collate(rows)
            self.tokens.append(batch["input_ids"].numel())
            return batch

        return counted

    def seconds_per_step(self) -> float:
        """Over all steps but the first."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)

    def tokens_per_step(self) -> float:
        """Over the same steps; a batch may have been taken ahead of the last."""
        return statistics.mean(self.tokens[1 : len(self.ends)])


def settings(run: Run, folder: str) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        "output_dir": folder, "max_steps": run.steps, "per_device_train_batch_size": run.batch, "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine", "warmup_steps": 1, "weight_decay": 0.0, "seed": run.seed, "use_cpu": True,
        "bf16": run.dtype == "bfloat16", "save_strategy": "no", "logging_steps": 1, "report_to": [],
        "disable_tqdm": True, "gradient_checkpointing": False, "log_level": "error", "dataloader_pin_memory": False,
    }  # fmt: skip


def lora() -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM")


def graft_trainer(run: Run, model: Any, rows: Sequence[TokenRow], folder: str) -> Any:
    args = TrainingArguments(**settings(run, folder), remove_unused_columns=False)
    return CompletionTrainer(
        model=get_peft_model(model, lora()),
        args=args,
        train_dataset=TokenDataset(rows),
        data_collator=pack,
        bucket_batches=1,
    )


def trl_trainer(run: Run, model: Any, rows: Sequence[TokenRow], folder: str) -> Any:
    """TRL on tokens, so that both see the same; a packed sequence holds as many tokens as a batch has on average."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    mode = run.trainer.removeprefix("trl_")
    mask = [[int(label != IGNORED) for label in row["labels"]] for row in rows]
    table = Dataset.from_dict({"input_ids": [row["input_ids"] for row in rows], "completion_mask": mask})
    told = settings(run, folder)
    mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
    if mode == "packing":
        told |= {"packing": True, "max_length": round(mean * run.batch), "per_device_train_batch_size": 1}
    else:
        told |= {"padding_free": mode.startswith("padding_free"), "max_length": None}
    if mode.endswith("_micro"):
        told |= {"per_device_train_batch_size": MICRO, "gradient_accumulation_steps": run.batch // MICRO}
    if mode.startswith("padded"):
        told |= {"train_sampling_strategy": "group_by_length"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(BUILT_BASE / "tokenizer.json"), pad_token="<|im_end|>", eos_token="<|im_end|>"
    )
    config = SFTConfig(**told, completion_only_loss=True)
    return SFTTrainer(model=model, args=config, train_dataset=table, processing_class=tokenizer, peft_config=lora())


def train(run: Run) -> Outcome:
    """One run in this process."""
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
    # A packed sequence has no fixed number of rows: as many as its tokens make.
    done = clock.tokens_per_step() / mean if run.trainer == "trl_packing" else run.batch
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    unique = pack(rows[: run.batch])["input_ids"].numel()
    loss = held_out_loss(trainer.model, held_out)
    return Outcome(done / seconds, done / seconds * mean, unique / run.batch, peak_mb, loss)


def held_out_loss(model: Any, rows: Sequence[TokenRow]) -> float:
    """Nats per target token, by the same padded float32 code for both."""
    model.eval().float()
    total = count = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), 16):
            batch = pad(rows[start : start + 16])
            total += weighted_loss(model, batch).item()
            count += len(batch["targets"])
    return total / count


def matrix_rate(dtype: torch.dtype, seconds: float = 2.0) -> float:
    """Operations per second of this machine's best product of the model's shapes."""
    x, weight = torch.randn(1024, 576, dtype=dtype), torch.randn(1536, 576, dtype=dtype)
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        for _ in range(10):
            torch.nn.functional.linear(x, weight)
        best = max(best, 10 * 2 * x.numel() * len(weight) / (time.perf_counter() - start))
    return best


def in_a_process(run: Run) -> Outcome:
    """`train` in a process of its own, so that memory is its own.

    Raises:
        GraftError: it failed; the message is the end of what it said.
    """
    argv = [sys.executable, "-W", "ignore", "-m", "benchmarks.train", "--child", json.dumps(asdict(run))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GraftError(f"{run.trainer} at {run.prefix} tokens failed:\n{done.stderr[-2000:]}")
    outcome = Outcome(**json.loads(done.stdout.splitlines()[-1]))
    shown = ", ".join(f"{name} {value:.4g}" for name, value in asdict(outcome).items())
    print(f"{run.trainer}, prefix {run.prefix}, seed {run.seed}: {shown}", flush=True)
    return outcome


def fastest(run: Run) -> str:
    """TRL's fastest mode for this prefix, by one short run each; a mode that fails is out."""
    rates = {}
    for mode in TRL_MODES:
        tried = Run(**{**asdict(run), "trainer": f"trl_{mode}", "steps": 3})
        try:
            rates[tried.trainer] = in_a_process(tried).rows_per_s
        except GraftError as error:
            print(f"trl_{mode} is out: {error}", flush=True)
    return max(rates, key=lambda name: rates[name])


def compare(options: argparse.Namespace) -> dict[str, float]:
    """All runs: medians over the seeds; of the three prefixes the worst bound, memory and loss difference."""
    dtype = getattr(torch, options.dtype)
    parameters = sum(value.numel() for value in load_model(BUILT_BASE, torch.float32).parameters())
    told: dict[str, float] = {}
    bounds: list[float] = []
    memory, losses = [], []
    for prefix in options.prefixes:
        first = Run("graft", prefix, 0, options.steps, options.batch, options.dtype, str(options.data))
        best = fastest(first)
        ours, theirs, fractions = [], [], []
        for seed in range(options.seeds):
            run = Run(**{**asdict(first), "seed": seed})
            rate = matrix_rate(dtype)
            ours.append(in_a_process(run))
            theirs.append(in_a_process(Run(**{**asdict(run), "trainer": best})))
            rate = max(rate, matrix_rate(dtype))
            fractions.append(4 * parameters * ours[-1].unique_tokens_per_row * ours[-1].rows_per_s / rate)
            print(f"matrix rate {rate / 1e9:.0f} GFLOP/s, Graft at {fractions[-1]:.2f} of the bound", flush=True)
        pairs = list(zip(ours, theirs, strict=True))
        told[f"rows_ratio_{prefix}"] = statistics.median(a.rows_per_s / b.rows_per_s for a, b in pairs)
        bounds.append(statistics.median(fractions))
        memory.append(statistics.median(a.peak_mb / b.peak_mb for a, b in pairs))
        losses.append(statistics.mean(a.eval_loss - b.eval_loss for a, b in pairs))
        table(prefix, best, ours, theirs, bounds[-1])
    worst = max(losses, key=abs)
    return {**told, "bound_fraction": min(bounds), "memory_ratio": max(memory), "eval_loss_diff": worst}


def table(prefix: int, best: str, ours: list[Outcome], theirs: list[Outcome], bound: float) -> None:
    """One line of docs/benchmarks.md for each trainer."""
    for name, outcomes, share in (("graft", ours, f"{bound:.2f}"), (best, theirs, "")):
        rows, tokens, peak = (
            statistics.median(getattr(outcome, field) for outcome in outcomes)
            for field in ("rows_per_s", "tokens_per_s", "peak_mb")
        )
        loss = ", ".join(f"{outcome.eval_loss:.3f}" for outcome in outcomes)
        print(f"| {prefix} | {name} | {rows:.2f} | {tokens:.0f} | {peak:.0f} | {loss} | {share} |", flush=True)


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
            wanted = "--data names a CSV with the columns text and category, `dvc repro base` makes the base"
            raise GraftError(f"{path}: not there; {wanted}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {options.dtype}; {versions}"
    )
    print(json.dumps(compare(options)))


if __name__ == "__main__":
    run_main(main)
