"""Training on a tiny model: it learns, resumes after a kill, and refuses what cannot count."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.checkpoints import SEAL
from tasks.errors import GraftError
from tasks.examples import load_examples, save_examples
from tasks.prompt import Prompt
from tasks.records import Example, Message, ToolCall
from tasks.settings import Settings, load_settings
from tasks.train import LOSS, Rows, check_adapter, tune
from tests.conftest import ROOT

RUN = """
import sys
from pathlib import Path
from tasks.prompt import Prompt
from tasks.settings import Settings
from tasks.train import tune
base, prompts, examples, checkpoints, target = map(Path, sys.argv[2:])
tune(Settings.model_validate_json(sys.argv[1]), base, Prompt.load(prompts, base), examples, checkpoints, target)
"""


def small(**changes: object) -> Settings:
    settings = load_settings(ROOT / "params.yaml")
    train = {"first_layer": 0, "rank": 4, "batch_size": 4, "epochs": 4.0, "learning_rate": 1e-2, "checkpoint_steps": 4}
    return settings.model_copy(update={"train": settings.train.model_copy(update={**train, **changes})})


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")

    def example(number: int, split: str) -> Example:
        call = ToolCall(name="find_order", arguments={"order_id": f"HL-{number:05}"})
        messages = (
            Message(role="user", content=f"where is order {number:05}?"),
            Message(role="assistant", tool_calls=(call,)),
        )
        return Example(id=f"r{number}", label="a", group=f"r{number}", split=split, source="x:1", messages=messages)

    save_examples(folder / "train.parquet", [example(n, "train") for n in range(24)])
    save_examples(folder / "eval.parquet", [example(n, "eval") for n in range(24, 28)])
    return folder


def losses(folder: Path) -> list[float]:
    return [entry["eval_loss"] for entry in json.loads((folder / LOSS).read_text()) if "eval_loss" in entry]


def test_learns_and_writes_an_adapter(tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path) -> None:
    tune(small(), tiny_base, Prompt.load(tiny_prompts, tiny_base), examples, tmp_path / "c", tmp_path / "adapter")
    history = losses(tmp_path / "adapter")
    assert history[-1] < history[0]
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "loss.json",
        "loss.png",
    }


def test_killed_run_resumes_to_the_same_weights(
    tiny_base: Path, tiny_prompts: Path, examples: Path, tmp_path: Path
) -> None:
    """SIGKILL after the first checkpoint, then again: the adapter equals an undisturbed run's."""
    settings = small(epochs=12.0)

    def command(name: str) -> list[str]:
        paths = [tiny_base, tiny_prompts, examples, tmp_path / name / "checkpoints", tmp_path / name / "adapter"]
        return [sys.executable, "-c", RUN, settings.model_dump_json(), *map(str, paths)]

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen(command("killed"), env=environment, cwd=ROOT, stdout=subprocess.PIPE)
    while killed.poll() is None and not list((tmp_path / "killed/checkpoints").glob(f"checkpoint-*/{SEAL}")):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/adapter").exists()
    resumed = subprocess.run(command("killed"), env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "going on from checkpoint-" in resumed.stdout
    subprocess.run(command("whole"), env=environment, cwd=ROOT, capture_output=True, check=True)
    one, other = (load_file(tmp_path / n / "adapter/adapter_model.safetensors") for n in ("killed", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


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
    rows = Rows(prompt, [longer, *others], small(window=max(sizes[1:])).train)
    assert [len(row["input_ids"]) for row in rows.rows] == sizes[1:]
    said = f"1 of 4 rows are left out, longer than train.window ({max(sizes[1:])} tokens): r24 ({sizes[0]} tokens)"
    assert said in capsys.readouterr().out


def test_no_examples_is_one_error(tiny_base: Path, tiny_prompts: Path, tmp_path: Path) -> None:
    for split in ("train", "eval"):
        save_examples(tmp_path / f"{split}.parquet", [])
    with pytest.raises(GraftError, match="no training examples"):
        tune(small(), tiny_base, Prompt.load(tiny_prompts, tiny_base), tmp_path, tmp_path / "c", tmp_path / "adapter")
