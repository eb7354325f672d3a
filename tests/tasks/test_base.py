"""Stage `base`: the base model is fetched from a folder and never used unchecked.

Also covers `tasks/model_package/downloads.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tasks.base import BASE, bring_in, source_sha256
from tasks.core.errors import GraftError
from tasks.core.settings import BaseSettings
from tasks.engine.model_loading import load_model
from tasks.model_package.manifest import BaseModelInfo


@pytest.fixture
def source(tiny_base: Path, tmp_path: Path) -> Path:
    """A model folder as it is after a download."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for path in tiny_base.iterdir():
        if path.name != BASE:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def settings(source: object, sha256: str) -> BaseSettings:
    return BaseSettings(source=str(source), sha256=sha256, license="Apache-2.0")


def test_brings_in_a_folder_with_the_same_weights(source: Path, tmp_path: Path) -> None:
    info = bring_in(settings(source, source_sha256(source)), tmp_path / "base")
    assert info == BaseModelInfo.model_validate_json((tmp_path / "base" / BASE).read_bytes())
    assert info.architecture == "LlamaForCausalLM"
    before, after = (load_model(folder, torch.float32).state_dict() for folder in (source, tmp_path / "base"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    # A tied output head is one tensor, and is counted once.
    assert info.parameters == sum(p.numel() for p in load_model(source, torch.float32).parameters())


def test_another_sha256_is_refused_and_nothing_is_lost(source: Path, tmp_path: Path) -> None:
    bring_in(settings(source, source_sha256(source)), tmp_path / "base")
    config = source / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    with pytest.raises(GraftError, match=r"its sha256 is\s+[0-9a-f]{64}, but params.yaml \(base.sha256\) expects"):
        bring_in(settings(source, "0" * 64), tmp_path / "base")
    assert json.loads((tmp_path / "base/config.json").read_text())["rms_norm_eps"] == 1e-06


def test_a_pickle_is_not_read(source: Path, tmp_path: Path) -> None:
    weights = source / "model.safetensors"
    torch.save(load_model(source, torch.float32).state_dict(), source / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        bring_in(settings(source, source_sha256(source)), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_unknown_source_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="neither pypi://"):
        bring_in(settings("ftp://somewhere/model", "0" * 64), tmp_path / "base")
