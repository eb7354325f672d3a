"""The OpenVINO engine, for CPUs: OpenVINO GenAI's continuous batching, on weights that `export` wrote.

The adapter is merged into the weights: with OpenVINO's adapters at run time, one adapter was seen to
answer requests for another. A shared beginning of prompts is computed once (prefix caching).
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import openvino
import openvino_genai as genai
from tokenizers import Tokenizer

from tasks.engine.decoding import Decoding
from tasks.engine.prefix_cache import PrefixCacheModel
from tasks.engine.protocol import Constraint, GenerationRequest, JsonSchema, Tags, TokenChunk
from tasks.engine.resources import Resources
from tasks.engine.xgrammar import check, pattern, schema

_BATCHED_TOKENS = 512
"""Tokens of one step: longer prompts are prefilled in chunks, beside the rows that decode."""

_MODEL = "openvino_model.xml"
"""The file name that OpenVINO expects."""

_BLOCK = 32
"""Tokens in a block of OpenVINO's key-value cache, on CPUs."""

_PRECISION = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoEngine:
    """Exported weights with their key-value cache.

    Args:
        pipeline: OpenVINO GenAI's continuous-batching pipeline.
        tokenizer: the base model's tokenizer.
        end_of_turn: id of the token that ends a turn.
        kept: the model of the pipeline's prefix cache, which does not report its hits.
    """

    def __init__(self, pipeline: Any, tokenizer: Tokenizer, end_of_turn: int, kept: PrefixCacheModel) -> None:
        self._pipeline = pipeline
        self._kept = kept
        self._tokenizer = tokenizer
        self._end_of_turn = end_of_turn
        self._ids = count()  # own ids for OpenVINO: a key may be reused while OpenVINO still releases its last request
        self._open: dict[int, tuple[Any, Decoding]] = {}

    @classmethod
    def load(cls, folder: Path, tokenizer: Path, end_of_turn: int, dtype: str, resources: Resources) -> OpenVinoEngine:
        """Map the weights in `folder` into memory and compile them for this CPU.

        Args:
            folder: the exported model.
            tokenizer: the base's `tokenizer.json`.
            end_of_turn: id of the token that ends a turn.
            dtype: the dtype of matrix products; `auto` takes bfloat16 where the CPU multiplies it.
            resources: threads, and GiB of the key-value cache.
        """
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = resources.cache_gb
        scheduler.enable_prefix_caching = True
        scheduler.max_num_batched_tokens = _BATCHED_TOKENS
        # With pinning, the threads of two engines would be bound to the same cores.
        properties: dict[str, Any] = {"ENABLE_CPU_PINNING": False}
        if dtype == "float32":
            properties["KV_CACHE_PRECISION"] = "f32"  # the default is 8 bits
        if resources.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = resources.threads
        if dtype != "auto":
            properties["INFERENCE_PRECISION_HINT"] = _PRECISION[dtype]
        pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties, {})
        room = (resources.cache_gb << 30) // (_BLOCK * _bytes_per_token(folder, dtype))
        return cls(pipeline, Tokenizer.from_file(str(tokenizer)), end_of_turn, PrefixCacheModel(_BLOCK, room))

    def submit(self, key: int, request: GenerationRequest) -> None:
        """See `Engine.submit`."""
        if key in self._open:
            raise ValueError(f"request {key} is open already")
        if request.sampling.constraint:
            # A malformed one would break the pipeline for all, and only in the next step.
            check(request.sampling.constraint)
        prompt = openvino.Tensor(numpy.array([request.prompt_ids], dtype=numpy.int64))
        handle = self._pipeline.add_request(next(self._ids), prompt, self._config(request))
        decoding = Decoding(key, request, self._tokenizer, self._end_of_turn)
        decoding.cached_tokens = self._kept.cached_tokens(request.prompt_ids)
        self._open[key] = handle, decoding

    def cancel(self, key: int) -> None:
        """See `Engine.cancel`."""
        if key in self._open:
            handle, _ = self._open.pop(key)
            handle.cancel()

    def step(self) -> list[TokenChunk]:
        """See `Engine.step`."""
        if not self._open:
            return []
        self._pipeline.step()
        return [chunk for key in list(self._open) for chunk in self._read(key)]

    def _read(self, key: int) -> list[TokenChunk]:
        """The tokens that the step added to this request; a finished request is released."""
        handle, decoding = self._open[key]
        chunks: list[TokenChunk] = []
        while handle.can_read():
            for output in handle.read().values():
                for token, logprob in zip(output.generated_ids, output.generated_log_probs, strict=True):
                    if decoding.finish_reason is None:
                        if not decoding.ids:
                            self._kept.keep(decoding.request.prompt_ids)
                        chunks.append(decoding.accept(token, logprob if decoding.request.sampling.logprobs else None))
        if decoding.finish_reason:
            self._kept.keep((*decoding.request.prompt_ids, *decoding.ids))
            self.cancel(key)
        elif handle.get_status() == genai.GenerationStatus.IGNORED:
            self.cancel(key)
            raise RuntimeError("the key-value cache has no room for a prompt: raise engine.cache_gb")
        return chunks

    def _config(self, request: GenerationRequest) -> Any:
        sampling = request.sampling
        config = genai.GenerationConfig()
        config.max_new_tokens = request.max_new_tokens
        config.set_eos_token_id(self._end_of_turn)
        config.logprobs = int(sampling.logprobs)
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.rng_seed = secrets.randbits(31) if sampling.seed is None else sampling.seed % 2**31
        if sampling.constraint:
            config.structured_output_config = _structured(sampling.constraint)
        return config


def _bytes_per_token(folder: Path, dtype: str) -> int:
    """The size of one token's keys and values in bytes, without their quantization scales."""
    variables = openvino.Core().read_model(folder / _MODEL).get_variables()
    shapes = [variable.info.data_shape for variable in variables]  # [rows, heads, tokens, width]
    numbers: int = sum(shape[1].get_length() * shape[3].get_length() for shape in shapes)
    return numbers * (4 if dtype == "float32" else 1)


@lru_cache(maxsize=64)
def _structured(constraint: Constraint) -> Any:
    config = genai.StructuredOutputConfig()
    if isinstance(constraint, JsonSchema):
        config.json_schema = schema(constraint.text)
    elif isinstance(constraint, Tags):
        kinds, once = genai.StructuredOutputConfig, constraint.required
        tags = [kinds.Tag(tag.begin, kinds.JSONSchema(schema(tag.schema)), tag.end) for tag in constraint.tags]
        config.structural_tags_config = kinds.TriggeredTags(
            [constraint.trigger], tags, at_least_one=once, stop_after_first=once
        )
    else:
        config.regex = pattern(constraint.pattern)
    return config
