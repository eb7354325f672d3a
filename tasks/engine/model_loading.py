"""Model loading: a causal language model from a local folder, safetensors only, nothing from the network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging

from tasks.core.errors import GraftError

_BFLOAT16_FEATURES = ("avx512_bf16", "amx_bf16")
"""torch's names for the CPU features that multiply bfloat16; other CPUs emulate it, ten times slower than float32."""


def training_dtype(name: str) -> torch.dtype:
    """The dtype for training: `auto` takes bfloat16 wherever the hardware multiplies it, else float32."""
    if name == "auto" and not torch.cuda.is_available():
        features = torch.cpu.get_capabilities()
        return torch.bfloat16 if any(features.get(name) for name in _BFLOAT16_FEATURES) else torch.float32
    return serving_dtype(name)


def serving_dtype(name: str) -> torch.dtype:
    """The dtype for inference: `auto` takes bfloat16 only where a GPU multiplies it, else float32.

    In bfloat16 a greedy answer may change with the other requests of its batch; a CPU gains little
    from it in decoding, which is bound by memory bandwidth.
    """
    if name != "auto":
        dtype = getattr(torch, name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """A transformers model on the CPU.

    Typed as Any because transformers' auto classes are not typed.
    """
    return _load(folder, dtype)


def load_merged(folder: Path, adapter: Path | None, dtype: torch.dtype) -> Any:
    """The model in `folder`, with a LoRA adapter merged into its weights if there is one, on the CPU."""
    from peft import PeftModel

    model = _load(folder, dtype)
    return model if adapter is None else PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def load_quantized(folder: Path, dtype: torch.dtype) -> Any:
    """A model whose linear layers are quantized to 4 bits and multiply in `dtype`, on the GPU if there is one.

    Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023 (arXiv 2305.14314).

    Raises:
        GraftError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise GraftError("params.yaml: train.quantization nf4 needs bitsandbytes: pip install -e '.[nf4]'")
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    model = _load(folder, dtype, quantization_config=quantization, device_map={"": device})
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Otherwise the first evaluation repacks the weights for a kernel that has no backward pass.
            module.support_avx512bf16_for_cpu = False
    return model


def _load(folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    logging.disable_progress_bar()  # its progress bars overwrite the lines of `Progress`
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, **options
    )
