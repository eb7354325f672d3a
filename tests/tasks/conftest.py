"""A model package in miniature: real hashes and a real manifest around files of a few bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.files import sha256_file, sha256_tree, write_json, write_text
from tasks.core.settings import EngineSettings
from tasks.model_package.manifest import MANIFEST, PROMPT, BaseModelInfo, Manifest
from tests.support.constraints import SHEET


@dataclass(frozen=True)
class BuiltPackage:
    """The outputs of the stages `base`, `package` and `evaluate`."""

    package: Path
    """The folder of the package."""
    base: Path
    """The folder of its base model."""
    evaluation: Path
    """The folder of its evaluation."""
    digest: str
    """The package's digest."""


@pytest.fixture
def build_package(tmp_path: Path) -> Callable[..., BuiltPackage]:
    """Build a package with an adapter text, evaluation rows and a prompt folder, all on the same base."""

    def build(adapter: str = "weights", rows: pd.DataFrame | None = None, prompt: Path | None = None) -> BuiltPackage:
        root = tmp_path / f"built-{adapter}"
        base, package, evaluation = root / "base", root / "package", root / "evaluation"
        write_text(base / "model.safetensors", "base weights")
        info = BaseModelInfo(
            source="test://tiny",
            sha256="0" * 64,
            licence="Apache-2.0",
            architecture="Tiny",
            parameters=12,
            files=sha256_tree(base),
        )
        write_json(base / "base.json", info.model_dump())
        write_text(package / "adapter" / "adapter.safetensors", adapter)
        if prompt is not None:
            shutil.copytree(prompt, package / PROMPT)
        manifest = Manifest(
            name="test-package",
            base=info,
            prompt={"prompt": "a", "tokenizer": "b"},
            engine=EngineSettings(name="transformers", dtype="auto", max_new_tokens=8),
            max_prompt_tokens=64,
            data={},
            params={},
            constraints=SHEET,
            refusal_phrases=("i can't",),
            files=sha256_tree(package),
        )
        write_json(package / MANIFEST, manifest.model_dump(mode="json"))
        write_json(package / "provenance.json", {"built_at": "2026-01-31"})
        write_json(evaluation / "scores.json", {"quality": 0.5})
        if rows is not None:
            rows.to_parquet(evaluation / "rows.parquet", index=False)
        return BuiltPackage(package, base, evaluation, sha256_file(package / MANIFEST))

    return build
