"""GGUF export of a model of the Llama architecture in Q8_0, for llama.cpp's server.

The names and the order of rotary halves are those of llama.cpp's own converter: github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from tokenizers import Tokenizer

from tasks.engine.model_loading import load_merged


def write_gguf(base: Path, adapter: Path | None, template: str, target: Path) -> None:
    """Write a model with a merged adapter as a GGUF file.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter, if any.
        template: chat template of the file.
        target: file to write.
    """
    model = load_merged(base, adapter, torch.float32)
    config = model.config
    writer = gguf.GGUFWriter(target, "llama")
    _describe(writer, config)
    _write_vocabulary(writer, base / "tokenizer.json", config, template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        target_name = names.get_name(name, try_suffixes=(".weight",))
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if target_name is None:
            raise ValueError(f"{name}: GGUF has no name for it")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        reordered = next((_interleave(tensor, count) for part, count in heads.items() if part in name), tensor)
        _add(writer, target_name, reordered.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def _write_vocabulary(writer: gguf.GGUFWriter, path: Path, config: Any, template: str) -> None:
    tokenizer = Tokenizer.from_file(str(path))
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(config.vocab_size)]
    merges = json.loads(path.read_bytes())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([tokenizer.id_to_token(i) or f"[PAD{i}]" for i in range(config.vocab_size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)


def _interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder rows from two halves of each head to pairs, as llama.cpp's rotary embedding reads them."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _add(writer: gguf.GGUFWriter, name: str, value: numpy.ndarray) -> None:
    if value.ndim == 1:
        writer.add_tensor(name, value)
    else:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
