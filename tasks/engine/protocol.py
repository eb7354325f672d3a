"""What an engine is: token ids in, streamed tokens out, many requests at once, each joining when it likes.

Evaluation and serving both stand behind this seam, so what is measured is what is served.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from tasks.core.errors import GraftError

FinishReason = Literal["stop", "length", "content_filter"]
"""An engine ends by the first two; the last is that of words in place of an answer which a check refused."""


@dataclass(frozen=True)
class JsonSchema:
    """The whole text must be JSON that this schema (as JSON text) allows."""

    text: str


@dataclass(frozen=True)
class Regex:
    """The whole text must match this regular expression."""

    pattern: str


@dataclass(frozen=True)
class Tag:
    """`begin`, then JSON that `schema` (as JSON text) allows, then `end`."""

    begin: str
    schema: str
    end: str


@dataclass(frozen=True)
class Tags:
    """Free text in which whatever begins with `trigger` is one of `tags`, each of which begins with it.

    `at_once` leaves no free text: the whole text is one of them.
    """

    trigger: str
    tags: tuple[Tag, ...]
    required: bool = False


Constraint = JsonSchema | Regex | Tags


class ConstraintError(GraftError):
    """A constraint that is malformed, or that the engine cannot hold."""


@dataclass(frozen=True)
class SamplingParams:
    """The decoding parameters of one request, on every engine."""

    max_new_tokens: int | None = None
    """The most tokens to generate, the end of turn included; None: the package's limit, which bounds any number."""
    temperature: float = 0.0
    """Divides the logits before sampling; 0: greedy decoding."""
    top_p: float = 1.0
    """Nucleus sampling: the probability mass, in (0, 1], of the most likely tokens that are sampled from."""
    seed: int | None = None
    """Seed of the random numbers, which makes sampling repeatable; None: a fresh one for each request."""
    stop: tuple[str, ...] = ()
    """Stop strings: generation ends at the first that appears, and the text ends before it."""
    logprobs: bool = False
    """Whether to return the log-probability (natural, before temperature and nucleus) of each token."""
    constraint: Constraint | None = None
    """Structured output: only tokens that can still lead to a match are sampled; None: free text.

    A text whose finish reason is `length` is then only the beginning of a match.
    """


GREEDY = SamplingParams()
"""Greedy decoding up to the package's limit of new tokens."""


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and how to continue it: until the end-of-turn token, a stop string or `max_new_tokens`."""

    prompt_ids: tuple[int, ...]
    """Token ids of the prompt."""
    sampling: SamplingParams
    """How to decode; its `max_new_tokens` is a number."""

    @property
    def max_new_tokens(self) -> int:
        """The most tokens to generate.

        Raises:
            ValueError: it is open; `Model.request` sets the package's limit.
        """
        if self.sampling.max_new_tokens is None:
            raise ValueError("a request to an engine needs max_new_tokens")
        return self.sampling.max_new_tokens


@dataclass(frozen=True)
class TokenChunk:
    """What request `key` gained: text that is final, and tokens; the last one has a finish reason.

    `logprobs` has one entry for each token, or none if they were not asked for. `cached_tokens` of the
    request's prompt were kept from earlier requests, so they were not computed.
    """

    key: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[float, ...] = ()
    cached_tokens: int = 0


@dataclass(frozen=True)
class Generation:
    """One finished continuation. Times are from when it was submitted, in milliseconds."""

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
    """An engine holds one model and the requests it is working on. It belongs to one thread."""

    def submit(self, key: int, request: GenerationRequest) -> None:
        """Take a request in, beside those that run; the steps that follow work on it.

        Raises:
            ValueError: an open request has this key, or this one has no `max_new_tokens`.
            ConstraintError: the request's constraint is one that this engine cannot hold.
        """
        ...

    def cancel(self, key: int) -> None:
        """Forget a request; no later step works on it. One that is not open is no error."""
        ...

    def step(self) -> list[TokenChunk]:
        """One decoding step for all open requests; a finished one is open no longer.

        Requests need not gain a token in every step. Without open requests it returns at once.
        """
        ...


def generate(
    engine: Engine, requests: Sequence[GenerationRequest], max_num_seqs: int
) -> Iterator[tuple[int, Generation]]:
    """Continue `requests`, at most `at_once` together: each with its place among them, as it finishes.

    Nobody waits for a first token here, so new ones are let in many at a time, once half of the
    places are free: a prefill beside every step would cost more than the empty places do. Closing
    the iterator cancels what is still open.
    """
    waiting = iter(enumerate(requests))
    working: dict[int, _OpenRequest] = {}
    try:
        while True:
            if len(working) <= max_num_seqs // 2:
                for place, request in islice(waiting, max_num_seqs - len(working)):
                    engine.submit(place, request)
                    working[place] = _OpenRequest(request)
            if not working:
                return
            for chunk in engine.step():
                working[chunk.key].take(chunk)
                if chunk.finish_reason:
                    yield chunk.key, working.pop(chunk.key).finished(chunk.finish_reason)
    finally:
        for place in working:
            engine.cancel(place)


class _OpenRequest:
    """What one request gained so far, and when."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._started = time.perf_counter()
        self._first_ms = self._last_ms = 0.0
        self._text = ""
        self._ids: tuple[int, ...] = ()

    def take(self, chunk: TokenChunk) -> None:
        self._last_ms = (time.perf_counter() - self._started) * 1000
        self._first_ms = self._first_ms or self._last_ms
        self._text += chunk.text
        self._ids += chunk.token_ids

    def finished(self, reason: FinishReason) -> Generation:
        prompt_tokens = len(self._request.prompt_ids)
        return Generation(self._text, self._ids, prompt_tokens, reason, self._first_ms, self._last_ms)
