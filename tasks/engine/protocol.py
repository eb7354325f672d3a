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
"""Engines give `stop` and `length`; `content_filter` marks the refusal that replaces a blocked answer."""


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
    """Free text in which everything that begins with `trigger` is one of `tags`."""

    trigger: str
    """The text with which each tag begins."""
    tags: tuple[Tag, ...]
    """The tags that are allowed."""
    required: bool = False
    """Whether there is no free text: the whole text is one of the tags."""


Constraint = JsonSchema | Regex | Tags


class ConstraintError(GraftError):
    """The constraint is malformed, or the engine cannot enforce it."""


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
    """The new text and tokens of one request after a step; its last chunk has a finish reason."""

    key: int
    """The request's key, as it was submitted."""
    text: str
    """New text that is final."""
    token_ids: tuple[int, ...]
    """New tokens."""
    finish_reason: FinishReason | None = None
    """Why generation ended; None while it goes on."""
    logprobs: tuple[float, ...] = ()
    """Log-probability of each new token; empty if they were not requested."""
    cached_tokens: int = 0
    """Prompt tokens that were not computed, as the prefix cache had them from earlier requests."""


@dataclass(frozen=True)
class Generation:
    """One finished continuation."""

    text: str
    """The text without end of turn and stop string."""
    token_ids: tuple[int, ...]
    """Generated tokens, the end of turn included."""
    prompt_tokens: int
    """Tokens of the prompt."""
    finish_reason: FinishReason
    """Why generation ended."""
    first_token_ms: float
    """Time from submission to the first token, in milliseconds."""
    latency_ms: float
    """Time from submission to the last token, in milliseconds."""

    @property
    def completion_tokens(self) -> int:
        return len(self.token_ids)


class Engine(Protocol):
    """An engine holds one model and its open requests. Only one thread may use it."""

    def submit(self, key: int, request: GenerationRequest) -> None:
        """Add a request to those that run; the following steps work on it.

        Raises:
            ValueError: an open request has this key, or this one has no `max_new_tokens`.
            ConstraintError: the request's constraint is one that this engine cannot hold.
        """
        ...

    def cancel(self, key: int) -> None:
        """Drop a request; no later step works on it. An unknown key is no error."""
        ...

    def step(self) -> list[TokenChunk]:
        """One decoding step for all open requests; a finished request is closed.

        A request may gain no token in a step. Without open requests the method returns immediately.
        """
        ...


def generate(
    engine: Engine, requests: Sequence[GenerationRequest], max_num_seqs: int
) -> Iterator[tuple[int, Generation]]:
    """Continue `requests`, at most `max_num_seqs` together: each with its index, as it finishes.

    First-token latency does not matter here, so new requests are submitted in batches, once half of
    the slots are free: a prefill beside every step would cost more than the empty slots do. Closing
    the iterator cancels the requests that are still open.
    """
    waiting = iter(enumerate(requests))
    working: dict[int, _OpenRequest] = {}
    try:
        while True:
            if len(working) <= max_num_seqs // 2:
                for index, request in islice(waiting, max_num_seqs - len(working)):
                    engine.submit(index, request)
                    working[index] = _OpenRequest(request)
            if not working:
                return
            for chunk in engine.step():
                working[chunk.key].add(chunk)
                if chunk.finish_reason:
                    yield chunk.key, working.pop(chunk.key).finished(chunk.finish_reason)
    finally:
        for index in working:
            engine.cancel(index)


class _OpenRequest:
    """The progress of one request, with times."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._started = time.perf_counter()
        self._first_ms = self._last_ms = 0.0
        self._text = ""
        self._ids: tuple[int, ...] = ()

    def add(self, chunk: TokenChunk) -> None:
        self._last_ms = (time.perf_counter() - self._started) * 1000
        self._first_ms = self._first_ms or self._last_ms
        self._text += chunk.text
        self._ids += chunk.token_ids

    def finished(self, reason: FinishReason) -> Generation:
        prompt_tokens = len(self._request.prompt_ids)
        return Generation(self._text, self._ids, prompt_tokens, reason, self._first_ms, self._last_ms)
