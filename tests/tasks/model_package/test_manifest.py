"""The manifest: a package whose files differ from it in any byte is not used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import GraftError
from tasks.core.files import sha256_file, write_json, write_text
from tasks.core.settings import PrepareSettings, RetrievalSettings, TrainSettings, load_settings
from tasks.model_package.manifest import BASE, MANIFEST, Grounding, package_digest, read_manifest, verify_package
from tasks.package import stored_params
from tests.conftest import ROOT

STORED = """{
  "prepare": {
    "seed": 7,
    "eval_share": 0.08,
    "test_share": 0.16
  },
  "train": {
    "seed": 7,
    "dtype": "auto",
    "quantisation": "none",
    "epochs": 1.0,
    "batch_size": 4,
    "bucket_batches": 8,
    "learning_rate": 0.003,
    "warmup_share": 0.1,
    "rank": 16,
    "alpha": 32,
    "dropout": 0.0,
    "targets": [
      "q_proj",
      "v_proj"
    ],
    "first_layer": 20,
    "window": 1024,
    "decision_weight": 8.0,
    "checkpoint_steps": 120,
    "patience": 3,
    "workers": 1
  },
  "grounding": {
    "index": "i",
    "embedding": "e",
    "passages": 2,
    "turns": 3,
    "known": 8,
    "retrieval": {
      "candidates": 20,
      "rank_offset": 10,
      "words_weight": 0.3,
      "text_weight": 0.4,
      "asked_nearest": 3,
      "floor": 0.26,
      "asked_floor": 0.4
    }
  }
}
"""
"""The parts of a manifest that are settings, as version 0.1 wrote them: other bytes would be another digest."""

PREPARE = PrepareSettings(seed=7, eval_fraction=0.08, test_fraction=0.16)
TRAIN = TrainSettings(
    seed=7,
    dtype="auto",
    quantization="none",
    epochs=1.0,
    batch_size=4,
    bucket_batches=8,
    learning_rate=3.0e-3,
    warmup_ratio=0.1,
    lora_rank=16,
    lora_alpha=32,
    lora_dropout=0.0,
    target_modules=("q_proj", "v_proj"),
    first_adapted_layer=20,
    max_length=1024,
    decision_token_weight=8.0,
    save_steps=120,
    early_stopping_patience=3,
    num_workers=1,
)
RETRIEVAL = RetrievalSettings(
    candidates=20,
    rrf_k=10,
    bm25_weight=0.3,
    text_weight=0.4,
    nearest_expansions=3,
    min_similarity=0.26,
    min_expansion_similarity=0.4,
)
GROUNDING = Grounding(index="i", embedding="e", passages=2, turns=3, known=8, retrieval=RETRIEVAL)


@pytest.mark.parametrize("mode", ["json", "python"])
def test_settings_lie_in_a_manifest_under_the_names_of_version_0_1(tmp_path: Path, mode: str) -> None:
    settings = load_settings(ROOT / "params.yaml").model_copy(update={"prepare": PREPARE, "train": TRAIN})
    write_json(tmp_path / "a.json", {**stored_params(settings), "grounding": GROUNDING.model_dump(mode=mode)})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == STORED


def test_grounding_is_read_back_with_the_same_settings() -> None:
    stored = json.dumps(json.loads(STORED)["grounding"])
    assert Grounding.model_validate_json(stored) == GROUNDING
    assert GROUNDING.retrieval == RETRIEVAL


def test_the_digest_is_the_manifests_own(build_package: Callable[..., Any]) -> None:
    built = build_package()
    assert package_digest(built.package) == sha256_file(built.package / MANIFEST)
    assert verify_package(built.package, built.base, built.digest) == read_manifest(built.package)


def test_the_digest_follows_the_content_and_not_the_provenance(build_package: Callable[..., Any]) -> None:
    one, other = build_package("one"), build_package("other")
    assert one.digest != other.digest
    write_text(one.package / "provenance.json", "{}")
    assert package_digest(one.package) == one.digest
    verify_package(one.package, one.base, one.digest)


@pytest.mark.parametrize(
    ("folder", "name", "content", "how"),
    [
        ("package", "adapter/adapter.safetensors", "other weights", "changed"),
        ("package", "adapter/adapter.safetensors", None, "missing"),
        ("package", "adapter/more.py", "import os", "not listed"),
        ("base", "model.safetensors", "other weights", "changed"),
        ("base", "pytorch_model.bin", "pickle", "not listed"),
    ],
)
def test_any_other_file_is_refused(
    build_package: Callable[..., Any], folder: str, name: str, content: str | None, how: str
) -> None:
    built = build_package()
    path: Path = getattr(built, folder) / name
    if content is None:
        path.unlink()
    else:
        write_text(path, content)
    with pytest.raises(GraftError) as error:
        verify_package(built.package, built.base)
    assert f"{name}: {how}" in str(error.value)


@pytest.mark.parametrize("part", ["sha256", "architecture"])
def test_a_base_that_calls_itself_another_is_refused(build_package: Callable[..., Any], part: str) -> None:
    built = build_package()
    info = json.loads((built.base / BASE).read_text(encoding="utf-8"))
    write_json(built.base / BASE, {**info, part: "another"})
    with pytest.raises(GraftError, match=f"this base's {part} is another, and the package was made on one whose"):
        verify_package(built.package, built.base)


def test_a_folder_that_says_nothing_of_itself_is_no_base(build_package: Callable[..., Any]) -> None:
    built = build_package()
    (built.base / BASE).unlink()
    with pytest.raises(GraftError, match="cannot be read as a description of the base"):
        verify_package(built.package, built.base)


def test_another_digest_than_the_expected_is_refused(build_package: Callable[..., Any]) -> None:
    built = build_package()
    with pytest.raises(GraftError, match=f"expected {'f' * 64}"):
        verify_package(built.package, built.base, "f" * 64)


def test_a_folder_that_is_no_package_is_refused(build_package: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="not a model package"):
        read_manifest(tmp_path)
    built = build_package()
    write_text(built.package / MANIFEST, '{"name": "x"}')
    with pytest.raises(GraftError, match="not a manifest that this version can read"):
        read_manifest(built.package)
