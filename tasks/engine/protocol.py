"""The engine protocol: token ids in, streamed tokens out, with continuous batching of concurrent requests.

Evaluation and serving both use engines through this protocol, so the evaluated behavior is the served one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from tasks.core.errors import GraftError

FinishReason = Literal["stop", "length", "content_filter"]
"""Engines return the first two; `content_filter` is that of a text which replaces an answer that a check refused."""


@dataclass(frozen=True)
class JsonSchema:
    """The whole text must be JSON that this schema allows."""

    text: str
    """The schema as JSON text."""


@dataclass(frozen=True)
class Regex:
    """The whole text must match this regular expression."""

    pattern: str
    """The regular expression."""


@dataclass(frozen=True)
class Tag:
    """A tool call in a text: `begin`, then JSON that `schema` allows, then `end`."""

    begin: str
    """The text before the JSON; it begins with the trigger of its `Tags`."""
    schema: str
    """The schema as JSON text."""
    end: str
    """The text after the JSON."""


@dataclass(frozen=True)
class Tags:
    """Free text in which each occurrence of `trigger` begins one of `tags`."""

    trigger: str
    """The text that begins every tag."""
    tags: tuple[Tag, ...]
    """The tags that may follow."""
    required: bool = False
    """Whether the whole text must be one tag, without free text."""


Constraint = JsonSchema | Regex | Tags


class ConstraintError(GraftError):
    """The constraint is malformed, or the engine cannot enforce it."""


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and how to continue it.

    `temperature` 0 is greedy. `seed` makes sampling repeatable. Generation ends at the end-of-turn
    token, at a stop string (which is not part of the text), or after `max_new_tokens`. `logprobs`
    asks for the log-probability (natural, before temperature and nucleus) of each token.
    `constraint` lets through only tokens that keep the text on its way to a match; a text that ends
    with `length` is then the beginning of one.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    constraint: Constraint | None = None


@dataclass(frozen=True)
class TokenChunk:
    """The new tokens of one request, with the text that has become final."""

    key: int
    """The request's key."""
    text: str
    """Final text, without stop strings."""
    token_ids: tuple[int, ...]
    """Ids of the new tokens."""
    finish_reason: FinishReason | None = None
    """Set in a request's last chunk."""
    logprobs: tuple[float, ...] = ()
    """The log-probability of each token; empty if the request does not ask for them."""
    cached_tokens: int = 0
    """Tokens of the prompt that were kept from earlier requests and therefore not computed."""


@dataclass(frozen=True)
class Generation:
    """One finished continuation."""

    text: str
    """Without the stop string."""
    token_ids: tuple[int, ...]
    """Ids of the generated tokens, with the end-of-turn token if it was generated."""
    prompt_tokens: int
    """Length of the prompt in tokens."""
    finish_reason: FinishReason
    """Why generation ended."""
    first_token_ms: float
    """From submission to the first token, in milliseconds."""
    latency_ms: float
    """From submission to the last token, in milliseconds."""

    @property
    def completion_tokens(self) -> int:
        return len(self.token_ids)


class Engine(Protocol):
    """An engine holds one model and its open requests. Only one thread may use it."""

    def submit(self, key: int, request: GenerationRequest) -> None:
        """Add a request to those that run; the following steps work on it.

        Raises:
            ValueError: a request with this key is open.
            ConstraintError: this engine cannot enforce the request's constraint.
        """
        ...

    def cancel(self, key: int) -> None:
        """Drop a request; no later step works on it. A key that is not open is no error."""
        ...

    def step(self) -> list[TokenChunk]:
        """One decoding step for all open requests; a finished request is closed.

        A request may gain no token in a step. Without open requests the method returns immediately.
        """
        ...


def generate(
    engine: Engine, requests: Sequence[GenerationRequest], max_num_seqs: int
) -> Iterator[tuple[int, Generation]]:
    """Continue `requests`, at most `max_num_seqs` concurrently: each with its index, as it finishes.

    No user waits for a first token here, so new requests are submitted in groups, once half of the
    sequence slots are free: a prefill beside every step would cost more than the empty slots do. Closing
    the iterator cancels the open requests.
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
    """The text, tokens and times of one open request so far."""

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
