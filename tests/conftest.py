"""Fixtures of all tests, above all a base model small enough for hundreds of tests: random weights, real code paths."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tasks.core.files import sha256_file

if TYPE_CHECKING:
    from tests.support.registries import RegistryLocation
    from tests.support.s3_server import S3Server

ROOT = Path(__file__).parent.parent

pytest_plugins = ("tests.support.prefect_stack", "tests.support.scheduling")

# The tiny models compute no faster with more threads, and the processes of pytest-xdist would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def make_tokenizer() -> Tokenizer:
    """One token per byte, and ChatML's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def make_base(folder: Path, seed: int) -> Path:
    """Write a folder like `build/base`: a random Llama of 2 layers (safetensors), its tokenizer, `base.json`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tasks.base import describe

    folder.mkdir()
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    describe(folder, source="test://tiny", sha256=str(seed) * 64, license="Apache-2.0")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base of most tests."""
    return make_base(tmp_path_factory.mktemp("tiny") / "base", seed=0)


@pytest.fixture(scope="session")
def tiny_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like `data/prompts`, short enough for a tokenizer with one token per byte."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "system.txt").write_text("Be brief.\n", encoding="utf-8")
    shutil.copy(ROOT / "data/prompts/chat.jinja", folder)
    tool = {"name": "find_order", "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}}}
    (folder / "tools.json").write_text(json.dumps([{"type": "function", "function": tool}]), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for `tiny_base` with weights large enough to change its answers."""
    import torch
    from peft import LoraConfig, get_peft_model

    from tasks.engine.model_loading import load_model

    torch.manual_seed(5)
    adapted = get_peft_model(
        load_model(tiny_base, torch.float32), LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.normal_(0, 0.5)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    adapted.save_pretrained(str(folder))
    (folder / "README.md").unlink()
    return folder


@pytest.fixture(scope="session")
def tiny_export(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, exported for the engine `openvino`."""
    from tasks.engine.openvino_export import export

    folder = tmp_path_factory.mktemp("export") / "openvino"
    export(tiny_base, None, folder)
    return folder


def embedding_source(folder: Path) -> dict[str, str]:
    """The entry of `params.yaml` for a retrieval model whose two files are in `folder`."""
    model, tokenizer = folder / "model.onnx", folder / "tokenizer.json"
    return {
        "model": str(model),
        "model_sha256": sha256_file(model),
        "tokenizer": str(tokenizer),
        "tokenizer_sha256": sha256_file(tokenizer),
    }


@pytest.fixture(scope="session")
def tiny_embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two files of a retrieval model: a random vector for each of the tiny tokenizer's tokens."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("retrieval")
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 8)).astype(np.float32)
    shape = ["texts", "length"]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, 8])],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    return folder


@pytest.fixture
def tiny_classifier(tmp_path: Path) -> Path:
    """A folder like `build/prompt_injection`, trained from the few texts in `tests/support/attack_texts.py`."""
    from tasks.prompt_injection import build
    from tests.support.attack_texts import tiny_settings, tiny_texts

    build(tiny_settings(), tiny_texts(), {}, tmp_path / "injection")
    return tmp_path / "injection"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; a test that needs it fails where it does not start."""
    from tests.support.s3_server import s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_location(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegistryLocation:
    """A registry location on the S3 server that no other test uses, with the keys in the environment."""
    from tests.support.registries import RegistryLocation
    from tests.support.s3_server import BUCKET

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return RegistryLocation(tmp_path, f"s3://{BUCKET}/{tmp_path.name}", s3_server.endpoint)
