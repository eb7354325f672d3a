"""Answer cache: earlier answers from this process's memory, for identical requests and, if so set, for similar ones.

Only reproducible turns are cached: greedy ones, and those with a seed; only complete ones; and only
for the API key's owner, from the package that answered. A client that sends `Cache-Control: no-cache`
or `no-store` gets a fresh answer, which is not cached either.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from cachetools import TTLCache
from pydantic import TypeAdapter

from deployments.app.cache.semantic_index import Question, SemanticIndex
from deployments.app.steps.retrieval import FoundPassages, PendingPassages
from deployments.core.messages import Embedder, Events, TurnEnd, TurnRequest
from deployments.core.metrics import Metrics
from deployments.core.settings import CacheSettings
from tasks.core.errors import GraftError
from tasks.core.records import Message
from tasks.retrieval import lookup_tool

_LOG = logging.getLogger(__name__)
_REQUEST = TypeAdapter(TurnRequest)

Result = Literal["hit", "semantic", "miss", "off"]


@dataclass(frozen=True)
class CacheKey:
    """Everything that an answer depends on; prompt, tools, index and engine settings are part of the digest."""

    tenant: str
    """The API key's owner."""
    digest: str
    """The package's digest."""
    request: str
    """The sha256 of the conversation, its tools and the sampling parameters."""


@dataclass(frozen=True)
class CacheLookup:
    """The result of a lookup."""

    result: Result
    """Whether the cache had the answer."""
    answer: TurnEnd | None = None
    """The answer of a hit."""
    key: CacheKey | None = None
    """Where a fresh answer is stored after a miss."""
    question: Question | None = None
    """Under which question the semantic index finds that answer."""

    async def events(self) -> Events:
        """The answer of a hit as one event."""
        if self.answer:
            yield self.answer


class AnswerCache:
    """A cache bounded by bytes and age that evicts the least recently used answer. It belongs to one event loop.

    Args:
        settings: its bounds; with 0 MB it is off.
        metrics: counts lookups.
        clock: monotonic seconds.
        embed: the retrieval model, which `settings.semantic` needs.

    Raises:
        GraftError: the semantic cache is on, and there is no embedding model.
    """

    def __init__(
        self, settings: CacheSettings, metrics: Metrics, clock: Callable[[], float], embed: Embedder | None
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        # Pickled, so that the bound counts bytes.
        self._answers: TTLCache[CacheKey, bytes] = TTLCache(settings.mb * 2**20, settings.max_age_s, clock, len)
        self._served: set[str] = set()
        self._index: SemanticIndex[CacheKey] | None = None
        if settings.semantic:
            if embed is None:
                raise GraftError("cache.semantic in serve.yaml needs an embedding model, and none is served")
            self._index = SemanticIndex(embed, settings.threshold, settings.entries)

    def keep(self, digests: set[str]) -> None:
        """Drop the answers of packages that are no longer served."""
        self._served = digests
        for key in [key for key in self._answers if key.digest not in digests]:
            del self._answers[key]

    async def look_up(self, tenant: str, digest: str, request: TurnRequest, cache_control: str) -> CacheLookup:
        """Look up the answer that package `digest` would give to `request`.

        Args:
            tenant: the API key's owner; owners never share answers.
            digest: the package's digest.
            request: the turn's request.
            cache_control: the request's header of that name, empty if there is none.
        """
        lookup = await self._look_up(tenant, digest, request, cache_control)
        self._metrics.cache_lookup(lookup.result)
        return lookup

    async def _look_up(self, tenant: str, digest: str, request: TurnRequest, cache_control: str) -> CacheLookup:
        directives = {directive.strip().lower() for directive in cache_control.split(",")}
        reproducible = request.sampling.temperature == 0 or request.sampling.seed is not None
        if not self._settings.mb or not reproducible or directives & {"no-cache", "no-store"}:
            return CacheLookup("off")
        key = CacheKey(tenant, digest, fingerprint(request))
        if answer := self._get(key):
            return CacheLookup("hit", answer)
        question = await self._question(key, request)
        if question and self._index:
            for similar in self._index.nearest(question):
                if answer := self._get(similar):
                    return CacheLookup("semantic", answer)
        return CacheLookup("miss", None, key, question)

    async def _question(self, key: CacheKey, request: TurnRequest) -> Question | None:
        """The last user message, if the semantic cache is on."""
        if self._index is None or not request.messages or request.messages[-1].role != "user":
            return None
        context = replace(request, messages=(*request.messages[:-1], Message(role="user")))
        text = request.messages[-1].content
        try:
            return await self._index.question(replace(key, request=fingerprint(context)), text)
        except Exception:  # a cache that fails must not fail the turn
            _LOG.exception("a question could not be embedded")
            return None

    def _get(self, key: CacheKey) -> TurnEnd | None:
        packed = self._answers.get(key)
        return None if packed is None else pickle.loads(packed)

    async def keeping(
        self, lookup: CacheLookup, digest: str, events: Events, pending_passages: PendingPassages
    ) -> Events:
        """Pass on `events`, and cache the complete answer if the package of the lookup gives it.

        Args:
            lookup: a miss, or one with the cache off.
            digest: the package that answers; empty for the static message.
            events: of the turn; are closed at the end.
            pending_passages: the turn's retrieval.
        """
        key = lookup.key if lookup.key and lookup.key.digest == digest else None
        async with aclosing(events):
            async for event in events:
                if key and isinstance(event, TurnEnd) and _is_reproducible(event, pending_passages.so_far):
                    self._put(key, lookup.question, event)
                yield event

    def _put(self, key: CacheKey, question: Question | None, answer: TurnEnd) -> None:
        packed = pickle.dumps(replace(answer, queue_ms=0.0, cached_tokens=answer.generation.prompt_tokens))
        if key.digest not in self._served or len(packed) > self._answers.maxsize:
            return
        self._answers[key] = packed
        if self._index and question:
            self._index.add(question, key)


def _is_reproducible(answer: TurnEnd, passages: FoundPassages) -> bool:
    """Whether the answer would be the same later: tool results are of their moment, and so is a failed search."""
    return not passages.failed and all(step.tool == lookup_tool.NAME for step in answer.steps)


def fingerprint(request: TurnRequest) -> str:
    """The sha256 of the request without its idempotency key and without what greedy decoding ignores."""
    sampling = request.sampling
    if sampling.temperature == 0:
        sampling = replace(sampling, top_p=1.0, seed=None)
    return hashlib.sha256(_REQUEST.dump_json(replace(request, key="", sampling=sampling))).hexdigest()
