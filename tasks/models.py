"""Load a causal language model from a folder: safetensors only, nothing from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging


def choose_dtype(name: str) -> torch.dtype:
    """The dtype to compute in: `auto` takes bfloat16 only where a GPU multiplies it, else float32.

    A CPU without AVX512-BF16 or AMX emulates bfloat16, more than ten times slower than float32.
    """
    if name != "auto":
        dtype = getattr(torch, name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def load_model(folder: Path, dtype: str) -> Any:
    """A transformers model in the dtype that `choose_dtype` gives for `dtype`, on the CPU.

    Typed as Any because transformers' auto classes are not typed.
    """
    logging.disable_progress_bar()  # its bars write over our progress lines
    torch.set_flush_denormal(True)  # a CPU multiplies numbers near zero many times slower than zero
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=choose_dtype(dtype), local_files_only=True, use_safetensors=True
    )
