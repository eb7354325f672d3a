"""The reference engine: any causal language model of transformers, decoded in batches.

Rows of a batch are padded on the left and leave the batch as they finish. What they all open with is
computed once and kept for the next batch. It is correct before it is fast; it is what other engines
are compared with.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from tasks.engine.protocol import Chunk, FinishReason, GenerationRequest
from tasks.models import load_model, serving_dtype


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest opening that all `prompts` share, leaving each at least one token of its own."""
    # The first and the last in lexicographic order differ where any two do.
    shared = shared_length(min(prompts), max(prompts))
    return prompts[0][: min(shared, *(len(prompt) - 1 for prompt in prompts))]


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens the two begin with alike."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


class TransformersEngine:
    """A base model with an adapter merged into it, or the base alone."""

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, end_of_turn: int) -> None:
        self.model = model
        model.train(False)
        self.tokenizer = tokenizer
        self.end_of_turn = end_of_turn
        self._held: tuple[tuple[int, ...], DynamicCache] = ((), DynamicCache(config=model.config))

    @classmethod
    def load(cls, base: Path, adapter: Path | None, end_of_turn: int, dtype: str) -> TransformersEngine:
        """Load safetensors only; merging makes a step as cheap as the base's own."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(base, serving_dtype(dtype))
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        return cls(model.to(device), tokenizer, end_of_turn)

    @torch.inference_mode()
    def _prefill(self, requests: Sequence[GenerationRequest]) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """Next-token logits [batch, vocabulary], attention mask [batch, longest], filled cache.

        The rests of the prompts are padded on the left, behind what all of them open with (system
        prompt, tools). Every row keeps at least one token of its own to predict from.
        """
        device = self.model.device
        shared = shared_prefix([r.prompt_ids for r in requests])
        rests = [r.prompt_ids[len(shared) :] for r in requests]
        longest = max(len(rest) for rest in rests)
        cache = self._opening(shared)
        mask = torch.zeros((len(requests), len(shared) + longest), dtype=torch.long)
        mask[:, : len(shared)] = 1
        if shared:
            cache.batch_repeat_interleave(len(requests))
        ids = torch.full((len(requests), longest), self.end_of_turn)
        for row, rest in enumerate(rests):
            ids[row, longest - len(rest) :] = torch.tensor(rest)
            mask[row, mask.shape[1] - len(rest) :] = 1
        mask = mask.to(device)
        positions = (mask.cumsum(-1) - 1)[:, len(shared) :]
        return self._forward(ids.to(device), mask, positions, cache), mask, cache

    @torch.inference_mode()
    def _opening(self, shared: tuple[int, ...]) -> DynamicCache:
        """A cache of one row that holds `shared`; what the last batch's opening has of it is not computed again."""
        held, cache = self._held
        # A sliding window, or a recurrent state, cannot be cut back.
        known = shared_length(held, shared) if all(type(layer) is DynamicLayer for layer in cache.layers) else 0
        cache = copy.deepcopy(cache) if known else DynamicCache(config=self.model.config)
        if 0 < known < len(held):
            cache.crop(known - len(held))  # a negative number: how many to remove
        if known < len(shared):
            device = self.model.device
            positions = torch.arange(known, len(shared), device=device)[None]
            ids = torch.tensor([shared[known:]], device=device)
            self._forward(ids, ids.new_ones((1, len(shared))), positions, cache)
            self._held = (shared, copy.deepcopy(cache))
        return cache

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

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[Chunk]:
        """See `Engine.stream`. One forward pass a step for all rows that are still open."""
        if not requests:
            return
        logits, mask, cache = self._prefill(requests)
        rows = [_Row(i, r, self.tokenizer, self.end_of_turn) for i, r in enumerate(requests)]
        while True:
            chosen = [row.choose(logits[place]) for place, row in enumerate(rows)]
            yield from (row.accept(token) for row, token in zip(rows, chosen, strict=True))
            open_places = [place for place, row in enumerate(rows) if row.finish_reason is None]
            if not open_places:
                return
            if len(open_places) < len(rows):
                keep = torch.tensor(open_places, device=mask.device)
                cache.batch_select_indices(keep)
                mask = mask[keep]
                rows = [rows[place] for place in open_places]
                chosen = [chosen[place] for place in open_places]
            mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=-1)
            ids = torch.tensor(chosen, device=mask.device).unsqueeze(-1)
            logits = self._forward(ids, mask, mask.sum(-1, keepdim=True) - 1, cache)


class _Row:
    """One request being decoded: picks its tokens and turns them into text."""

    def __init__(self, index: int, request: GenerationRequest, tokenizer: Tokenizer, end_of_turn: int) -> None:
        self.index = index
        self.request = request
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._end_of_turn = end_of_turn
        self._generator = torch.Generator().manual_seed(request.seed) if request.seed is not None else None
        self._ids: list[int] = []
        self._sent = ""

    def choose(self, logits: torch.Tensor) -> int:
        """The next token from `logits` [vocabulary]: greedy, or sampled from the top-p nucleus."""
        if self.request.temperature == 0:
            return int(logits.argmax())
        probabilities, order = torch.softmax(logits.cpu() / self.request.temperature, -1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities[before >= self.request.top_p] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=self._generator)])

    def accept(self, token: int) -> Chunk:
        """Take a chosen token and give what it adds to the text."""
        self._ids.append(token)
        if token == self._end_of_turn:
            self.finish_reason = "stop"
        elif len(self._ids) >= self.request.max_new_tokens:
            self.finish_reason = "length"
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        ready = self._ready(text)
        new, self._sent = ready[len(self._sent) :], ready
        return Chunk(self.index, new, (token,), self.finish_reason)

    def _ready(self, text: str) -> str:
        """The part of `text` that is final: no half character, nothing that may be a stop string."""
        for stop in self.request.stop:
            if (found := text.find(stop)) >= 0:
                self.finish_reason = "stop"
                return text[:found]
        if self.finish_reason:
            return text
        held = len(text.rstrip("�"))
        for stop in self.request.stop:
            for size in range(1, len(stop)):
                if text.endswith(stop[:size]):
                    held = min(held, len(text) - size)
        return max(self._sent, text[:held], key=len)
