"""What an engine is: token ids in, streamed tokens out, for one request or a batch of them.

Evaluation and serving both stand behind this seam, so what is measured is what is served.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and how to continue it.

    `temperature` 0 is greedy. `seed` makes sampling repeatable. Generation ends at the end-of-turn
    token, at a stop string (which is not part of the text), or after `max_new_tokens`.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """New text of request `index` (its place in the batch); the last one has a finish reason."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Generation:
    """One finished continuation. Times are from the batch's start, in milliseconds."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    first_token_ms: float
    latency_ms: float

    @property
    def completion_tokens(self) -> int:
        return len(self.token_ids)


class Engine(Protocol):
    """An engine holds one model, ready to answer."""

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[Chunk]:
        """Continue all `requests` together, yielding text as it appears.

        Closing the iterator ends the work within one decoding step.
        """
        ...


def generate(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """Continue all `requests` and wait for the whole of each, in the order they were given."""
    started = time.perf_counter()
    texts: list[list[str]] = [[] for _ in requests]
    tokens: list[list[int]] = [[] for _ in requests]
    first: dict[int, float] = {}
    done: dict[int, tuple[FinishReason, float]] = {}
    for chunk in engine.stream(requests):
        elapsed_ms = (time.perf_counter() - started) * 1000
        first.setdefault(chunk.index, elapsed_ms)
        texts[chunk.index].append(chunk.text)
        tokens[chunk.index].extend(chunk.token_ids)
        if chunk.finish_reason:
            done[chunk.index] = (chunk.finish_reason, elapsed_ms)
    return [
        Generation("".join(texts[i]), tuple(tokens[i]), len(r.prompt_ids), done[i][0], first[i], done[i][1])
        for i, r in enumerate(requests)
    ]
