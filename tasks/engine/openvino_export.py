"""Export of a model to OpenVINO: the adapter merged, weights quantized to 8 bits, with the tokenizer.

The graph is traced from transformers' own code, so any architecture that transformers runs with its plain
attention and an unbounded cache can be exported. Keys and values become the graph's state; OpenVINO GenAI
replaces the attention over them by paged attention. Kwon et al., "Efficient Memory Management for Large Language
Model Serving with PagedAttention", 2023 (arXiv 2309.06180).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import DynamicCache, DynamicLayer

from tasks.core.errors import GraftError
from tasks.engine.model_loading import load_merged

MODEL = "openvino_model.xml"
"""The file name that OpenVINO GenAI expects; the weights lie beside it."""

_INPUTS = ("input_ids", "attention_mask", "position_ids")


def export(base: Path, adapter: Path | None, target: Path) -> None:
    """Write the model in `base`, with the LoRA adapter merged if there is one, to the new folder `target`.

    The export runs in a process of its own, so that the same model gives the same bytes (OpenVINO numbers
    the nodes of a process) and its memory is released.

    Raises:
        GraftError: OpenVINO cannot page the model's cache.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(_export, base, adapter, target).result()


def _export(base: Path, adapter: Path | None, target: Path) -> None:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    graph = convert(load_merged(base, adapter, torch.float32))
    nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
    target.mkdir()
    openvino.save_model(graph, target / MODEL)
    write_tokenizer(base / "tokenizer.json", target)


def convert(model: Any) -> Any:
    """A transformers model on the CPU as a stateful OpenVINO graph.

    Inputs: `input_ids` and `position_ids` [batch, new], `attention_mask` [batch, all], `beam_idx`
    [batch], the row of the state that each row continues. Output: `logits` [batch, new, vocabulary].

    Raises:
        GraftError: see `export`.
    """
    import openvino

    # Moves the KV cache into the graph's state. Without it the engine `openvino` cannot continue a
    # sequence; `openvino.passes.MakeStateful` would have to take its place.
    from openvino._offline_transformations import apply_make_stateful_transformation

    shapes = cache_shapes(model)
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing warns of every branch; `weight_fidelity` measures whether the graph equals the model.
        warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
        graph = openvino.convert_model(_Step(model), example_input=_example(shapes))
    pasts = [f"past.{layer}.{part}" for layer in range(len(shapes)) for part in ("key", "value")]
    presents = [name.replace("past", "present") for name in pasts]
    free = [[-1, -1]] * len(_INPUTS) + [[-1, heads, -1, size] for heads, size in shapes for _ in ("key", "value")]
    for port, name, shape in zip(graph.inputs, [*_INPUTS, *pasts], free, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape(shape))
    for port, name in zip(graph.outputs, ["logits", *presents], strict=True):
        port.get_tensor().set_names({name})
    _reorder(graph, pasts)
    apply_make_stateful_transformation(graph, dict(zip(pasts, presents, strict=True)))
    _begin_empty(graph)
    return graph


class _Step(torch.nn.Module):
    """One forward pass as a function of tensors only, with the cache as a flat list of inputs and outputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache(config=self.model.config)
        layers: Any = cache.layers
        for layer, key, value in zip(layers, past[::2], past[1::2], strict=True):
            # The state that `update` leaves: its own first call would be traced with an empty tensor.
            layer.keys, layer.values, layer.is_initialized = key, value, True
            layer.dtype, layer.device = key.dtype, key.device
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return (out.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


def cache_shapes(model: Any) -> list[tuple[int, int]]:
    """Heads and head size of each layer's keys and values, by a forward pass of one token.

    Raises:
        GraftError: see `export`.
    """
    cache = DynamicCache(config=model.config)
    layers: Any = cache.layers
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        raise GraftError(
            f"params.yaml: engine.name openvino does not support the cache of {type(model).__name__} "
            "(a sliding window or a recurrent state); set it to transformers"
        )
    with torch.inference_mode():
        model(input_ids=torch.ones((1, 1), dtype=torch.long), past_key_values=cache, use_cache=True)
    return [(layer.keys.shape[1], layer.keys.shape[3]) for layer in layers]


def _example(shapes: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with: two rows with five tokens in the cache, and three new ones each."""
    rows, cached, new = 2, 5, 3
    ids = torch.ones((rows, new), dtype=torch.long)
    mask = torch.ones((rows, cached + new), dtype=torch.long)
    positions = torch.arange(cached, cached + new)[None].repeat(rows, 1)
    past = [torch.zeros((rows, heads, cached, size)) for heads, size in shapes for _ in ("key", "value")]
    return ids, mask, positions, *past


def _reorder(graph: Any, pasts: Sequence[str]) -> None:
    """Let each row choose the row of the state that it continues: paging is applied where this pattern is found."""
    import openvino
    from openvino import opset13 as operations

    rows = operations.parameter(openvino.PartialShape([-1]), numpy.int32, name="beam_idx")
    rows.output(0).get_tensor().add_names({"beam_idx"})
    for name in pasts:
        past = graph.input(name).get_node().output(0)
        readers = past.get_target_inputs()
        chosen = operations.gather(past, rows, operations.constant(0, numpy.int32)).output(0)
        for reader in readers:
            reader.replace_source_output(chosen)
    graph.add_parameters([rows])
    graph.validate_nodes_and_infer_types()


def _begin_empty(graph: Any) -> None:
    """Initialize the state with no tokens for each row of `input_ids`."""
    from openvino import opset13 as operations

    ids = graph.input("input_ids").get_node()
    zero, first = operations.constant(0, numpy.int64), operations.constant([0], numpy.int64)
    rows = operations.gather(operations.shape_of(ids, "i64"), first, zero)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, size = node.get_output_partial_shape(0)
            rest = operations.constant([heads.get_length(), 0, size.get_length()], numpy.int64)
            empty = operations.concat([rows, rest], 0)
            node.set_arguments([operations.broadcast(operations.constant(0.0, numpy.float32), empty)])
    graph.validate_nodes_and_infer_types()


def write_tokenizer(tokenizer: Path, target: Path) -> None:
    """Write the tokenizer beside the model: OpenVINO GenAI reads its vocabulary for constrained decoding."""
    import openvino
    from openvino_tokenizers import convert_tokenizer

    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
    parts = convert_tokenizer(fast, with_detokenizer=True)
    for part, name in zip(parts, ("openvino_tokenizer.xml", "openvino_detokenizer.xml"), strict=True):
        openvino.save_model(part, target / name)
