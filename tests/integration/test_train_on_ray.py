"""Training on a real Ray: one worker and two workers give the same loss curve.

Also covers `deployments/train.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from deployments.core.ports import free_port, take_free_ports
from deployments.core.settings import load_serve_settings
from tasks.core.paths import BUILT_ADAPTER, BUILT_BASE, BUILT_GROUNDING, CHECKPOINTS, PROMPTS
from tasks.data.examples import save_examples
from tests.conftest import ROOT
from tests.support.examples import write_examples
from tests.support.ray_stack import start_head, stop_head

SMALL = {"first_adapted_layer": 0, "lora_rank": 4, "batch_size": 4, "epochs": 3.0, "save_steps": 6, "dtype": "float32"}


@pytest.fixture(scope="module")
def root(tiny_base: Path, tiny_prompts: Path) -> Iterator[Path]:
    """A repository in which all stages before `train` have run, with its own Ray."""
    root = Path(tempfile.mkdtemp(prefix="graft-"))
    shutil.copytree(tiny_base, root / BUILT_BASE)
    shutil.copytree(tiny_prompts, root / PROMPTS)
    (root / BUILT_GROUNDING).mkdir()
    write_examples(root / BUILT_GROUNDING)
    (root / "deployments").mkdir()
    shutil.copy(ROOT / "deployments/train.yaml", root / "deployments")
    content = yaml.safe_load((ROOT / "deployments/serve.yaml").read_text(encoding="utf-8"))
    take_free_ports(content)
    (root / "deployments/serve.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    head = start_head(load_serve_settings(root / "deployments/serve.yaml"), root)
    try:
        yield root
    finally:
        stop_head(head)
        shutil.rmtree(root)


def launch(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deployments.train"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def configure(root: Path, **train: object) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train"].update(SMALL, **train)
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def run(root: Path, workers: int) -> tuple[str, list[dict[str, float]], dict[str, torch.Tensor]]:
    """The output, the loss history and the adapter."""
    configure(root, num_workers=workers)
    done = launch(root)
    assert done.returncode == 0, done.stdout + done.stderr
    history = json.loads((root / BUILT_ADAPTER / "loss.json").read_text())
    return done.stdout, history, load_file(root / BUILT_ADAPTER / "adapter_model.safetensors")


def test_two_workers_follow_the_curve_of_one(root: Path) -> None:
    """Both train on the same rows in the same steps, with weights over the whole batch, so only rounding differs."""
    _, single_history, single_adapter = run(root, 1)
    output, history, adapter = run(root, 2)
    assert "train: 18/18 steps" in output
    assert [entry["step"] for entry in history] == [entry["step"] for entry in single_history]
    for entry, single in zip(history, single_history, strict=True):
        name = "loss" if "loss" in entry else "eval_loss"
        assert entry[name] == pytest.approx(single[name], rel=1e-3)
    assert single_adapter.keys() == adapter.keys()
    assert not list((root / CHECKPOINTS).glob("*/checkpoint-*"))
    assert not list((root / ".graft").glob("train-*"))


def test_what_a_worker_refuses_is_one_error(root: Path) -> None:
    configure(root, num_workers=2)
    kept = (root / BUILT_GROUNDING / "train.parquet").read_bytes()
    save_examples(root / BUILT_GROUNDING / "train.parquet", [])
    try:
        refused = launch(root)
    finally:
        (root / BUILT_GROUNDING / "train.parquet").write_bytes(kept)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: build/grounding/train.parquet: no training examples")


def test_more_workers_than_fit_is_one_error(root: Path) -> None:
    configure(root, num_workers=100, batch_size=100)
    refused = launch(root)
    assert refused.returncode == 1
    assert "error: train.num_workers: 100 workers of 0.5 CPU each, but the Ray cluster has 2 in all" in refused.stderr


def test_no_ray_is_one_error(root: Path) -> None:
    configure(root, num_workers=2)
    unused_address = f"127.0.0.1:{free_port()}"
    refused = launch(root, RAY_ADDRESS=unused_address)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: train.num_workers is more than 1 in params.yaml")
    assert unused_address in refused.stderr
