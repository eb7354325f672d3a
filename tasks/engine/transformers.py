"""The transformers engine, the reference: any causal language model of transformers, with continuous batching.

Rows are padded on the left; new rows are prefilled together and joined to the running batch, and each is
removed as it finishes. The shared beginning of prompts is computed once and kept for the next ones. A model
with a sliding window or a recurrent state, whose cache cannot be padded, takes new rows only when none runs.
Correctness has priority over speed, because other engines are compared with this one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from tasks.engine.decoding import Decoding
from tasks.engine.model_loading import load_merged, serving_dtype
from tasks.engine.prefix_cache import common_prefix_length
from tasks.engine.protocol import GenerationRequest, TokenChunk
from tasks.engine.resources import Resources

if TYPE_CHECKING:
    from tasks.engine.grammar import Grammars, Matcher


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest prefix that all `prompts` share and that is at least one token shorter than each of them."""
    # The first and the last prompt in lexicographic order differ wherever any two prompts do.
    shared = common_prefix_length(min(prompts), max(prompts))
    return prompts[0][: min(shared, *(len(prompt) - 1 for prompt in prompts))]


class TransformersEngine:
    """A base model with an adapter merged into it, or without one."""

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, end_of_turn: int) -> None:
        self.model = model
        model.train(False)
        self.tokenizer = tokenizer
        self.end_of_turn = end_of_turn
        self._new: dict[int, _Row] = {}
        self._rows: list[_Row] = []
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=model.device)
        self._cache = DynamicCache(config=model.config)
        self._held: tuple[tuple[int, ...], DynamicCache] = ((), DynamicCache(config=model.config))
        self._joins = all(type(layer) is DynamicLayer for layer in self._cache.layers)

    @classmethod
    def load(
        cls, base: Path, adapter: Path | None, end_of_turn: int, dtype: str, resources: Resources
    ) -> TransformersEngine:
        """Load safetensors only; with a merged adapter a step costs the same as the base's.

        Args:
            base: the base model's folder.
            adapter: the LoRA adapter's folder; None for the base alone.
            end_of_turn: id of the token that ends a turn.
            dtype: `auto`, or a torch dtype's name.
            resources: threads for the CPU.
        """
        if resources.threads is not None:
            torch.set_num_threads(resources.threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_merged(base, adapter, serving_dtype(dtype))
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        return cls(model.to(device), tokenizer, end_of_turn)

    @torch.inference_mode()
    def _prefill(self, requests: Sequence[GenerationRequest]) -> tuple[torch.Tensor, torch.Tensor, DynamicCache, int]:
        """Prefill: next-token logits [batch, vocabulary], attention mask [batch, longest], filled cache, and the
        number of each prompt's tokens that were cached.

        The prompts' own tokens are padded on the left, behind the shared prefix (system prompt, tools).
        Every row has at least one token of its own to predict from.
        """
        device = self.model.device
        prompts = [request.prompt_ids for request in requests]
        shared = shared_prefix(prompts)
        rests = [prompt[len(shared) :] for prompt in prompts]
        longest = max(len(rest) for rest in rests)
        cache, known = self._opening(shared)
        mask = torch.zeros((len(requests), len(shared) + longest), dtype=torch.long)
        mask[:, : len(shared)] = 1
        if shared:
            cache.batch_repeat_interleave(len(requests))
        ids = torch.full((len(requests), longest), self.end_of_turn)
        for place, rest in enumerate(rests):
            ids[place, longest - len(rest) :] = torch.tensor(rest)
            mask[place, mask.shape[1] - len(rest) :] = 1
        mask = mask.to(device)
        positions = (mask.cumsum(-1) - 1)[:, len(shared) :]
        return self._forward(ids.to(device), mask, positions, cache), mask, cache, known

    @torch.inference_mode()
    def _opening(self, shared: tuple[int, ...]) -> tuple[DynamicCache, int]:
        """A cache of one row that holds `shared`, and how many of its tokens were cached from the last batch."""
        held, cache = self._held
        known = common_prefix_length(held, shared) if self._joins else 0  # else it cannot be cropped
        cache = copy.deepcopy(cache) if known else DynamicCache(config=self.model.config)
        if 0 < known < len(held):
            cache.crop(known - len(held))  # a negative number removes that many tokens
        if known < len(shared):
            device = self.model.device
            positions = torch.arange(known, len(shared), device=device)[None]
            ids = torch.tensor([shared[known:]], device=device)
            self._forward(ids, ids.new_ones((1, len(shared))), positions, cache)
            self._held = (shared, copy.deepcopy(cache))
        return cache, known

    @torch.inference_mode()
    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def submit(self, key: int, request: GenerationRequest) -> None:
        """See `Engine.submit`."""
        if key in self._new or any(row.key == key for row in self._rows):
            raise ValueError(f"request {key} is open already")
        matcher = self._grammars.matcher(request.sampling.constraint) if request.sampling.constraint else None
        self._new[key] = _Row(key, request, self.tokenizer, self.end_of_turn, matcher)

    @cached_property
    def _grammars(self) -> Grammars:
        # Built from the whole vocabulary, which takes time: only requests with a constraint need it.
        from tasks.engine.grammar import Grammars

        return Grammars(self.tokenizer, self.end_of_turn)

    def cancel(self, key: int) -> None:
        """See `Engine.cancel`."""
        self._new.pop(key, None)
        self._keep([place for place, row in enumerate(self._rows) if row.key != key])

    @torch.inference_mode()
    def step(self) -> list[TokenChunk]:
        """See `Engine.step`. One forward pass for the running rows, and one to prefill and join new ones."""
        chunks = self._decode() if self._rows else []
        if self._new and (self._joins or not self._rows):
            chunks += self._admit()
        return chunks

    def _decode(self) -> list[TokenChunk]:
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(self._rows), 1))], dim=-1)
        ids = torch.tensor([row.ids[-1:] for row in self._rows], device=self._mask.device)
        logits = self._forward(ids, self._mask, self._mask.sum(-1, keepdim=True) - 1, self._cache)
        return self._accept(logits)

    def _admit(self) -> list[TokenChunk]:
        """Prefill all new requests together, sample their first token and join them to the running rows."""
        rows = list(self._new.values())
        logits, mask, cache, known = self._prefill([row.request for row in rows])
        for row in rows:
            row.cached_tokens = known
        running = (self._rows, self._mask, self._cache)
        self._rows = rows
        self._mask, self._cache = mask, cache
        self._new.clear()
        chunks = self._accept(logits)
        self._join(*running)
        return chunks

    def _accept(self, logits: torch.Tensor) -> list[TokenChunk]:
        """Choose a token for each row from `logits` [rows, vocabulary]; finished rows are removed."""
        chunks = [row.choose(logits[place]) for place, row in enumerate(self._rows)]
        self._keep([place for place, row in enumerate(self._rows) if row.finish_reason is None])
        return chunks

    def _keep(self, places: list[int]) -> None:
        """Keep only the rows at the indices `places`, and drop the columns that only the other rows filled."""
        if len(places) == len(self._rows):
            return
        self._rows = [self._rows[place] for place in places]
        keep = torch.tensor(places, device=self._mask.device, dtype=torch.long)
        self._mask = self._mask[keep]
        self._cache.batch_select_indices(keep)
        if self._joins and self._rows:
            empty = int(self._mask.any(0).int().argmax())
            self._mask = self._mask[:, empty:]
            layers: Any = self._cache.layers
            for layer in layers:
                layer.keys, layer.values = layer.keys[:, :, empty:], layer.values[:, :, empty:]

    def _join(self, rows: list[_Row], mask: torch.Tensor, cache: DynamicCache) -> None:
        """Put other rows before those in the batch; the shorter side is padded on the left."""
        if not rows:
            return
        if not self._rows:
            self._rows, self._mask, self._cache = rows, mask, cache
            return
        self._rows = rows + self._rows
        width = max(mask.shape[1], self._mask.shape[1])
        self._mask = torch.cat([_wider(mask, width, 1), _wider(self._mask, width, 1)])
        layers: Any = self._cache.layers
        others: Any = cache.layers
        for layer, other in zip(layers, others, strict=True):
            layer.keys = torch.cat([_wider(other.keys, width, 2), _wider(layer.keys, width, 2)])
            layer.values = torch.cat([_wider(other.values, width, 2), _wider(layer.values, width, 2)])


def _wider(value: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """`value`, padded with zeros on the left along `dim`, to `width`."""
    before = (0, 0) * (value.dim() - 1 - dim) + (width - value.shape[dim], 0)
    return torch.nn.functional.pad(value, before)


def _masked(logits: torch.Tensor, allowed: bytes) -> torch.Tensor:
    """`logits` [width], minus infinity where `allowed` [vocabulary], which may be shorter, is zero or has ended."""
    known = torch.frombuffer(bytearray(allowed), dtype=torch.uint8)[: len(logits)].bool()
    every = torch.nn.functional.pad(known, (0, len(logits) - len(known)))
    return logits.masked_fill(~every.to(logits.device), float("-inf"))


class _Row(Decoding):
    """A request in the batch, with its own sampling state."""

    def __init__(
        self, key: int, request: GenerationRequest, tokenizer: Tokenizer, end_of_turn: int, matcher: Matcher | None
    ) -> None:
        super().__init__(key, request, tokenizer, end_of_turn)
        self._matcher = matcher
        seed = request.sampling.seed
        self._generator = torch.Generator().manual_seed(seed) if seed is not None else None

    def choose(self, logits: torch.Tensor) -> TokenChunk:
        """Take the next token from `logits` [vocabulary]: greedy, or sampled from the top-p nucleus.

        Its log-probability is the model's among all tokens, including those that a constraint forbids.
        """
        token = self._pick(_masked(logits, self._matcher.allowed()) if self._matcher else logits)
        if self._matcher:
            self._matcher.accept(token)
        return self.accept(token, float(logits.log_softmax(-1)[token]) if self.request.sampling.logprobs else None)

    def _pick(self, logits: torch.Tensor) -> int:
        sampling = self.request.sampling
        if sampling.temperature == 0:
            return int(logits.argmax())
        probabilities, order = torch.softmax(logits.cpu() / sampling.temperature, -1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities[before >= sampling.top_p] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=self._generator)])
