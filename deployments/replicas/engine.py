"""Engine replica: one served package, opened from the registry and checked, which answers turns.

It does everything that belongs to a package (prompt, engine, parsing, measuring); HTTP and OpenAI's
formats belong to `deployments/app`.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import NoneType
from typing import Any

from deployments.core.loopback import stay_on_loopback
from deployments.core.messages import OVERLOADED, Delta, Event, Refusal, TokenLogprob, TurnEnd, TurnRequest
from deployments.core.settings import ReplicaSettings
from deployments.replicas.batching import BatchingQueue, OverloadedError, Ticket
from tasks.core.errors import GraftError
from tasks.core.records import Message
from tasks.core.settings import AdmissionSettings
from tasks.engine.loading import Model, PromptTooLongError, open_package
from tasks.engine.probes import check_probes
from tasks.engine.protocol import (
    ConstraintError,
    Generation,
    GenerationRequest,
    JsonSchema,
    Regex,
    SamplingParams,
    TokenChunk,
)
from tasks.engine.resources import Resources
from tasks.engine.subprocess_engine import EngineLostError
from tasks.engine.token_bytes import TokenBytes
from tasks.evaluation.response_features import measure_response
from tasks.model_package.admission import admit
from tasks.registry.registry import open_registry

_LOG = logging.getLogger(__name__)
_CONSTRAINED_BY = {JsonSchema: "response_format", Regex: "structured_outputs", NoneType: "tools"}
"""The API field that a constraint comes from; without one of its own a request is constrained to its tools."""


class PackageServer:
    """A model behind a bounded queue, which answers a `TurnRequest` with events.

    Args:
        model: the opened package.
        refusal_phrases: phrases by which a refusal is recognized.
        settings: the bounds of the queue, and the stream's rate.
    """

    def __init__(self, model: Model, refusal_phrases: tuple[str, ...], settings: ReplicaSettings) -> None:
        self._model = model
        self._refusal_phrases = refusal_phrases
        self._bytes = TokenBytes(model.prompt.tokenizer)
        self._settings = settings
        self._queue = BatchingQueue(
            model.engine,
            max_num_seqs=settings.max_num_seqs,
            max_queued=settings.max_queued,
            max_wait_s=settings.first_token_timeout_s,
        )

    async def turn(self, request: TurnRequest) -> AsyncIterator[Event]:
        """The next turn of a conversation. Its last event is a `TurnEnd` or a `Refusal`."""
        try:
            ticket = self._queue.admit(self._generation_request(request))
        except PromptTooLongError as error:
            yield Refusal(400, "context_length_exceeded", str(error))
            return
        except GraftError as error:
            yield Refusal(400, "invalid_prompt", str(error))
            return
        except OverloadedError as error:
            after = max(1, math.ceil(error.wait_s))
            yield Refusal(503, OVERLOADED, f"too many requests are waiting; try again in {after} s", after)
            return
        try:
            async for event in self._decode(request, ticket):
                yield event
        except ConstraintError as error:
            yield Refusal(400, "invalid_value", str(error), param=_CONSTRAINED_BY[type(request.sampling.constraint)])
        except Exception as error:  # an engine may raise anything; the caller still gets an answer
            if isinstance(error, EngineLostError) or is_out_of_memory(error):
                self.give_up()
            _LOG.exception("the engine failed")
            yield Refusal(500, "engine_error", "the model failed while answering; the server's log says why")

    def give_up(self) -> None:
        """Called when the engine is lost, or out of memory. A subclass that owns the process may end it."""

    def _generation_request(self, request: TurnRequest) -> GenerationRequest:
        if request.text is not None:
            return self._model.continuation(request.text, request.sampling)
        tools = list(request.tools) if request.tools is not None else None
        return self._model.request(request.messages, tools, request.must_call, request.sampling)

    async def _decode(self, request: TurnRequest, ticket: Ticket) -> AsyncIterator[Event]:
        chunks: list[TokenChunk] = []
        logprobs: tuple[TokenLogprob, ...] = ()
        prompt_tokens, tokens = len(ticket.request.prompt_ids), 0
        first = last = ticket.admitted
        sent_chunks = sent_logprobs = 0
        sent_at = -math.inf
        async for chunk in self._queue.follow(ticket):
            last = time.monotonic()
            first = first if chunks else last
            chunks.append(chunk)
            tokens += len(chunk.token_ids)
            logprobs += self._logprobs(chunk)
            # An event costs about as much as a token of a small model, so chunks are not sent one by one.
            if not chunk.finish_reason and last - sent_at >= self._settings.stream_every_s:
                text = "".join(new.text for new in chunks[sent_chunks:])
                yield Delta(text, prompt_tokens, tokens, logprobs[sent_logprobs:])
                sent_chunks, sent_at, sent_logprobs = len(chunks), last, len(logprobs)
        generation = Generation(
            text="".join(chunk.text for chunk in chunks),
            token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
            prompt_tokens=prompt_tokens,
            finish_reason=chunks[-1].finish_reason or "stop",
            first_token_ms=(first - ticket.admitted) * 1000 - ticket.queue_ms,
            latency_ms=(last - ticket.admitted) * 1000 - ticket.queue_ms,
        )
        answer = self._model.prompt.parse(generation.text)
        tools = self._model.prompt.known_tool_names(request.tools)
        features = measure_response(request.messages, generation, answer, self._refusal_phrases, tools)
        yield TurnEnd(generation, answer, features, ticket.queue_ms, logprobs, chunks[0].cached_tokens)

    def _logprobs(self, chunk: TokenChunk) -> tuple[TokenLogprob, ...]:
        if not chunk.logprobs:
            return ()
        scored = zip(chunk.token_ids, chunk.logprobs, strict=True)
        end = self._model.prompt.end_of_turn
        return tuple(TokenLogprob(self._bytes(token), logprob) for token, logprob in scored if token != end)

    async def check_health(self) -> None:
        """Generate one token, unless the engine gave one lately. Serve calls this and replaces a replica that fails."""
        if self._queue.silent_s < self._settings.health_check_period_s:
            return
        request = self._model.request([Message(role="user", content="ping")], sampling=SamplingParams(max_new_tokens=1))
        async for _ in self._queue.follow(self._queue.admit(request)):
            continue


class EngineReplica(PackageServer):
    """The Serve deployment: checks and opens a published package by its digest.

    Args:
        digest: the package's digest.
        root: the installation's root folder.
        settings: `ReplicaSettings` as JSON.
        admission: `AdmissionSettings` as JSON.

    Raises:
        GraftError: the package is missing, is not admitted, or does not answer as it did when it was
            packaged.
    """

    def __init__(self, digest: str, root: str, settings: dict[str, Any], admission: dict[str, Any]) -> None:
        stay_on_loopback()
        checked = ReplicaSettings.model_validate(settings)
        resources = Resources(checked.threads, checked.cache_gb, in_subprocess=True)
        registry = open_registry(Path(root))
        package, base = registry.package(digest), registry.base(digest)
        manifest = admit(digest, package, base, AdmissionSettings.model_validate(admission))
        model = open_package(package, base, resources)
        check_probes(model, package)
        super().__init__(model, manifest.refusal_phrases, checked)

    def give_up(self) -> None:
        """End this process: only that surely frees its memory, and its requests are sent to another replica."""
        os.write(2, b"engine: lost, or out of memory; this replica ends and Serve starts another\n")
        os._exit(1)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an engine ran out of memory; torch raises its own class, or only a message."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
