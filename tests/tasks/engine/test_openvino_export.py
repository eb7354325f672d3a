"""OpenVINO export: exported weights equal the model that they were made from, in architecture, adapter and logits.

Also covers `tasks/engine/weight_fidelity.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from tasks.core.errors import GraftError
from tasks.core.files import sha256_tree
from tasks.engine.openvino import OpenVinoEngine
from tasks.engine.openvino_export import export
from tasks.engine.protocol import GenerationRequest, SamplingParams, generate
from tasks.engine.resources import EXCLUSIVE
from tasks.engine.weight_fidelity import measure_fidelity
from tasks.prompt.encoding import IGNORED
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen": Qwen3Config(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
}


def rows() -> list[tuple[list[int], list[int]]]:
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randint(3, 250, (40 + n,), generator=generator).tolist() for n in range(4)]
    return [(ids, [IGNORED] * 10 + ids[10:]) for ids in samples]


def make_base(config: PretrainedConfig, tokenizer: Path, folder: Path) -> Path:
    torch.manual_seed(0)
    config.vocab_size = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_the_same_when_exported(family: str, tiny_base: Path, tmp_path: Path) -> None:
    base = make_base(FAMILIES[family], tiny_base / "tokenizer.json", tmp_path / "base")
    export(base, None, tmp_path / "exported")
    fidelity = measure_fidelity(base, None, tmp_path / "exported", rows())
    assert (fidelity.rows, fidelity.tokens) == (4, 126)
    assert fidelity.greedy_agreement > 0.85
    assert fidelity.perplexity == pytest.approx(fidelity.float32_perplexity, rel=0.1)
    engine = OpenVinoEngine.load(tmp_path / "exported", base / "tokenizer.json", 2, "float32", EXCLUSIVE)
    ((_, generation),) = generate(engine, [GenerationRequest((5, 6, 7), SamplingParams(8))], 1)
    assert generation.completion_tokens == 8 or generation.finish_reason == "stop"


def test_the_adapter_is_in_the_weights(tiny_base: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    export(tiny_base, tiny_adapter, tmp_path / "tuned")
    assert measure_fidelity(tiny_base, tiny_adapter, tmp_path / "tuned", rows()).greedy_agreement > 0.85
    assert measure_fidelity(tiny_base, None, tmp_path / "tuned", rows()).greedy_agreement < 0.5


def test_the_same_model_gives_the_same_bytes(tiny_base: Path, tiny_export: Path, tmp_path: Path) -> None:
    export(tiny_base, None, tmp_path / "again")
    assert sha256_tree(tiny_export) == sha256_tree(tmp_path / "again")


def test_a_cache_that_cannot_be_paged_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    base = make_base(Gemma3TextConfig(**SHAPE, sliding_window=8), tiny_base / "tokenizer.json", tmp_path / "base")
    with pytest.raises(GraftError, match="set it to transformers"):
        export(base, None, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_openvino_reports_nothing_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    program = "import tasks.engine.openvino, sys; assert not sys.modules['openvino_telemetry']"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "HOME": str(tmp_path)}, cwd=ROOT, check=True)
    assert not list(tmp_path.iterdir())
