"""Stage `train` on a tiny model: it learns, resumes after a kill, and refuses invalid adapters and inputs.

Also covers `tasks/training/loss_curve.py` and `tasks/training/trainer.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import shutil
import signal
import time
from contextlib import redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BloomConfig

from tasks.core.errors import GraftError
from tasks.core.records import Message
from tasks.core.settings import Settings, load_settings
from tasks.data.examples import load_examples, save_examples
from tasks.engine.model_loading import load_model
from tasks.prompt.encoding import Prompt
from tasks.train import LOSS, METRICS, arguments, check_adapter, encode, run_key, tune, with_adapter
from tasks.training.checkpoints import SEAL
from tasks.training.packing import enable_packing, pack, pad, weighted_loss
from tasks.training.trainer import CompletionTrainer
from tests.conftest import ROOT
from tests.support.examples import write_examples

pytestmark = pytest.mark.slow


def tune_process(settings: Settings, base: Path, prompts: Path, examples: Path, folder: Path) -> BaseProcess:
    """A process that trains into `folder` and writes what it prints to `output.txt` there.

    The processes are forks of one server that has imported the trainer and computed nothing, so that
    each begins at once and as a fresh one would.
    """
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tasks.train", "tasks.training.trainer"])
    process = context.Process(target=train_into, args=(settings, base, prompts, examples, folder))
    process.start()
    return process


def train_into(settings: Settings, base: Path, prompts: Path, examples: Path, folder: Path) -> None:
    with (folder / "output.txt").open("w", encoding="utf-8") as output, redirect_stdout(output):
        tune(settings, base, Prompt.load(prompts, base), examples, folder / "checkpoints", folder / "adapter")


def small(**changes: object) -> Settings:
    settings = load_settings(ROOT / "params.yaml")
    train = {
        "first_adapted_layer": 0,
        "lora_rank": 4,
        "batch_size": 4,
        "epochs": 4.0,
        "learning_rate": 1e-2,
        "save_steps": 4,
    }
    return settings.model_copy(update={"train": settings.train.model_copy(update={**train, **changes})})


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples"))


def losses(folder: Path) -> list[float]:
    return [entry["eval_loss"] for entry in json.loads((folder / LOSS).read_text()) if "eval_loss" in entry]


def test_a_run_has_the_key_that_version_0_1_gave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"base.json": b"{}", "train.parquet": b"rows", "data/prompts/system.txt": b"Be brief."}
    (tmp_path / "data/prompts").mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    settings = load_settings(ROOT / "params.yaml")
    train = settings.train
    names = {
        "seed": train.seed,
        "dtype": train.dtype,
        "quantisation": train.quantization,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "bucket_batches": train.bucket_batches,
        "learning_rate": train.learning_rate,
        "warmup_share": train.warmup_ratio,
        "rank": train.lora_rank,
        "alpha": train.lora_alpha,
        "dropout": train.lora_dropout,
        "targets": list(train.target_modules),
        "first_layer": train.first_adapted_layer,
        "window": train.max_length,
        "decision_weight": train.decision_token_weight,
        "checkpoint_steps": train.save_steps,
        "patience": train.early_stopping_patience,
        "workers": train.num_workers,
    }
    made_from = [names, *(hashlib.sha256(content).hexdigest() for content in files.values())]
    expected = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    assert run_key(settings, tmp_path, tmp_path) == expected


def test_learns_and_writes_an_adapter(tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path) -> None:
    tune(small(), tiny_base, Prompt.load(tiny_prompts, tiny_base), examples, tmp_path / "c", tmp_path / "adapter")
    history = losses(tmp_path / "adapter")
    assert history[-1] < history[0]
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "loss.json",
        "loss.png",
        "metrics.json",
    }
    assert json.loads((tmp_path / "adapter" / METRICS).read_text())["eval_loss"] == round(min(history), 4)


@pytest.mark.parametrize("seed", [7, 8])
def test_killed_run_resumes_to_the_same_weights(
    tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path, seed: int
) -> None:
    """After two SIGKILLs, each after a checkpoint, the adapter equals an undisturbed run's, bit by bit."""
    settings = small(epochs=12.0, seed=seed, early_stopping_patience=100)

    def begin(name: str) -> BaseProcess:
        return tune_process(settings, tiny_base, tiny_prompts, examples, tmp_path / name)

    def newest() -> int:
        sealed = (tmp_path / "killed/checkpoints").glob(f"checkpoint-*/{SEAL}")
        return max((int(seal.parent.name.rpartition("-")[2]) for seal in sealed), default=0)

    for _ in range(2):
        before = newest()
        killed = begin("killed")
        while killed.is_alive() and newest() == before:
            time.sleep(0.01)
        killed.kill()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        assert newest() > before
    assert not (tmp_path / "killed/adapter").exists()
    for name in ("killed", "whole"):
        process = begin(name)
        process.join()
        assert process.exitcode == 0
    assert "resuming from checkpoint-" in (tmp_path / "killed/output.txt").read_text(encoding="utf-8")
    one, other = (load_file(tmp_path / n / "adapter/adapter_model.safetensors") for n in ("killed", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_best_checkpoint_is_kept_and_a_run_that_gains_no_more_ends(
    tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path
) -> None:
    """With a learning rate that overfits, the eval loss rises again long before 40 epochs."""
    settings = small(epochs=40.0, learning_rate=3e-2, early_stopping_patience=2)
    prompt = Prompt.load(tiny_prompts, tiny_base)
    tune(settings, tiny_base, prompt, examples, tmp_path / "c", tmp_path / "adapter")
    history = json.loads((tmp_path / "adapter" / LOSS).read_text())
    steps = -(-24 // settings.train.batch_size) * 40
    assert max(entry["step"] for entry in history) < steps
    evaluations = [(entry["eval_loss"], entry["step"]) for entry in history if "eval_loss" in entry]
    best, last = min(evaluations), evaluations[-1]
    assert best < last
    rows = encode(prompt, load_examples(examples / "eval.parquet"), settings.train).rows
    model = PeftModel.from_pretrained(load_model(tiny_base, torch.float32), str(tmp_path / "adapter"))
    batch = pad(rows)
    with torch.no_grad():
        loss = weighted_loss(model, batch) / batch["target_weights"].sum()
    assert loss.item() == pytest.approx(best[0], rel=1e-3)


def test_micro_batches_change_no_step(tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path) -> None:
    """Gradient accumulation divides by the whole step's weight, for any number of micro-batches."""
    train = small().train
    prompt = Prompt.load(tiny_prompts, tiny_base)
    rows = encode(prompt, load_examples(examples / "train.parquet"), train)
    logs = []
    for micro_batches in (1, 2):
        model = with_adapter(load_model(tiny_base, torch.float32), train)
        changed = {
            "per_device_train_batch_size": 8 // micro_batches,
            "gradient_accumulation_steps": micro_batches,
            "max_steps": 3,
        }
        args = dataclasses.replace(arguments(train, tmp_path / str(micro_batches), 3, has_eval_rows=False), **changed)
        with enable_packing(model):
            trainer = CompletionTrainer(
                model=model, args=args, train_dataset=rows, data_collator=pack, bucket_batches=8
            )
            trainer.train()
        logs.append([(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e])
    for whole, accumulated in zip(*logs, strict=True):
        assert accumulated == pytest.approx(whole, rel=1e-2)
        assert accumulated[0] == pytest.approx(whole[0], rel=1e-4)


def test_a_model_that_takes_no_packs_is_trained_padded(
    tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    vocabulary = json.loads((base / "config.json").read_text())["vocab_size"]
    config = BloomConfig(vocab_size=vocabulary, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    settings = small(target_modules=["query_key_value"])
    tune(settings, base, Prompt.load(tiny_prompts, base), examples, tmp_path / "c", tmp_path / "adapter")
    history = losses(tmp_path / "adapter")
    assert history[-1] < history[0]
    assert "BloomForCausalLM cannot share prefixes, rows are trained padded" in capsys.readouterr().out


@pytest.mark.filterwarnings("error:.*autograd kernel was not registered")
def test_a_base_of_four_bits_is_trained(tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    prompt = Prompt.load(tiny_prompts, tiny_base)
    tune(small(quantization="nf4"), tiny_base, prompt, examples, tmp_path / "c", tmp_path / "adapter")
    history = losses(tmp_path / "adapter")
    assert history[-1] < history[0]


def test_four_bits_without_bitsandbytes_is_one_error(
    tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.engine.model_loading.find_spec", lambda _: None)
    with pytest.raises(GraftError, match=r"pip install -e '\.\[nf4\]'"):
        tune(small(quantization="nf4"), tiny_base, Prompt.load(tiny_prompts, tiny_base), examples, tmp_path, tmp_path)


def test_a_batch_that_cannot_be_shared_out_is_one_error(
    tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path
) -> None:
    with pytest.raises(GraftError, match=r"batch_size 4 is no multiple of train\.num_workers 3"):
        tune(small(num_workers=3), tiny_base, Prompt.load(tiny_prompts, tiny_base), examples, tmp_path, tmp_path / "a")


def test_adapter_that_changes_nothing_is_refused() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.register_parameter("lora_A", torch.nn.Parameter(torch.ones(2, 2)))
    layer.register_parameter("lora_B", torch.nn.Parameter(torch.zeros(2, 2)))
    with pytest.raises(GraftError, match="identical to zero"):
        check_adapter(layer)
    with torch.no_grad():
        layer.lora_B.fill_(float("nan"))
    with pytest.raises(GraftError, match="lora_B is not finite"):
        check_adapter(layer)


def test_a_row_longer_than_the_window_is_left_out_and_named(
    tiny_base: Path, tiny_prompts: Path, examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = Prompt.load(tiny_prompts, tiny_base)
    one, *others = load_examples(examples / "eval.parquet")
    longer = one.model_copy(update={"messages": (Message(role="user", content="please " * 90), *one.messages[1:])})
    sizes = [len(prompt.encode_training(example.messages)[0]) for example in (longer, *others)]
    rows = encode(prompt, [longer, *others], small(max_length=max(sizes[1:])).train)
    assert [len(row["input_ids"]) for row in rows.rows] == sizes[1:]
    message = (
        f"1 of 4 rows are left out, longer than train.max_length ({max(sizes[1:])} tokens): r24 ({sizes[0]} tokens)"
    )
    assert message in capsys.readouterr().out


def test_no_examples_is_one_error(tiny_base: Path, tiny_prompts: Path, tmp_path: Path) -> None:
    for split in ("train", "eval"):
        save_examples(tmp_path / f"{split}.parquet", [])
    with pytest.raises(GraftError, match="no training examples"):
        tune(small(), tiny_base, Prompt.load(tiny_prompts, tiny_base), tmp_path, tmp_path / "c", tmp_path / "adapter")
