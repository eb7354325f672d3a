"""Answers that were given before, in this process's memory: exact, and by likeness if so set.

Only turns that come out the same each time are kept: greedy ones, and those with a seed; only whole
ones; and only for who asked, from the package that answered. A client that sends `Cache-Control:
no-cache` or `no-store` gets a fresh answer, which is not kept either.
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
_ASK = TypeAdapter(TurnRequest)

Result = Literal["hit", "semantic", "miss", "off"]


@dataclass(frozen=True)
class CacheKey:
    """All that an answer depends on. Prompt, tools, index and engine settings are part of the package's digest.

    `request` is the sha256 of the conversation, its tools and the decoding parameters.
    """

    tenant: str
    digest: str
    request: str


@dataclass(frozen=True)
class CacheLookup:
    """How the cache was asked: the result, the answer if there is one, and where a fresh one belongs."""

    result: Result
    answer: TurnEnd | None = None
    key: CacheKey | None = None
    question: Question | None = None

    async def events(self) -> Events:
        """The answer in one event; only of a hit."""
        if self.answer:
            yield self.answer


class AnswerCache:
    """Bounded by bytes and age; what was not asked for longest goes first. It belongs to one event loop.

    Args:
        settings: its bounds; with 0 MB it is off.
        meters: counts.
        clock: seconds that only grow.
        embed: what `settings.semantic` needs.

    Raises:
        GraftError: answers by likeness are wanted, and nothing embeds.
    """

    def __init__(
        self, settings: CacheSettings, meters: Metrics, clock: Callable[[], float], embed: Embedder | None
    ) -> None:
        self._settings = settings
        self._meters = meters
        # As bytes, so that the bound on memory is one.
        self._answers: TTLCache[CacheKey, bytes] = TTLCache(settings.mb * 2**20, settings.max_age_s, clock, len)
        self._served: set[str] = set()
        self._index: SemanticIndex[CacheKey] | None = None
        if settings.semantic:
            if embed is None:
                raise GraftError("cache.semantic in serve.yaml needs an embedding model, and none is served")
            self._index = SemanticIndex(embed, settings.threshold, settings.entries)

    def keep(self, digests: set[str]) -> None:
        """Forget the answers of packages that are no longer served."""
        self._served = digests
        for key in [key for key in self._answers if key.digest not in digests]:
            del self._answers[key]

    async def look_up(self, tenant: str, digest: str, ask: TurnRequest, cache_control: str) -> CacheLookup:
        """Look for the answer that package `digest` would give to `ask`.

        Args:
            tenant: who asks; nobody gets another's answers.
            digest: the package's.
            ask: what it is asked.
            cache_control: the request's header of that name, empty if there is none.
        """
        lookup = await self._look_up(tenant, digest, ask, cache_control)
        self._meters.cache_lookup(lookup.result)
        return lookup

    async def _look_up(self, tenant: str, digest: str, ask: TurnRequest, cache_control: str) -> CacheLookup:
        directives = {directive.strip().lower() for directive in cache_control.split(",")}
        repeats = ask.sampling.temperature == 0 or ask.sampling.seed is not None
        if not self._settings.mb or not repeats or directives & {"no-cache", "no-store"}:
            return CacheLookup("off")
        key = CacheKey(tenant, digest, fingerprint(ask))
        if answer := self._get(key):
            return CacheLookup("hit", answer)
        question = await self._question(key, ask)
        if question and self._index:
            for known in self._index.nearest(question):
                if answer := self._get(known):
                    return CacheLookup("semantic", answer)
        return CacheLookup("miss", None, key, question)

    async def _question(self, key: CacheKey, ask: TurnRequest) -> Question | None:
        """The last user turn, if likeness may be looked for."""
        if self._index is None or not ask.messages or ask.messages[-1].role != "user":
            return None
        rest = replace(ask, messages=(*ask.messages[:-1], Message(role="user")))
        try:
            return await self._index.question(replace(key, request=fingerprint(rest)), ask.messages[-1].content)
        except Exception:  # a cache that fails must not fail the turn
            _LOG.exception("a question could not be embedded")
            return None

    def _get(self, key: CacheKey) -> TurnEnd | None:
        packed = self._answers.get(key)
        return None if packed is None else pickle.loads(packed)

    async def keeping(self, lookup: CacheLookup, digest: str, events: Events, reading: PendingPassages) -> Events:
        """`events`, of which the whole answer is kept if the package that was meant gives it.

        Args:
            lookup: what missed, or was off.
            digest: the package that really answers; empty if none does.
            events: of the turn; are closed at the end.
            reading: what was found for it.
        """
        async with aclosing(events):
            async for event in events:
                meant = lookup.key if lookup.key and lookup.key.digest == digest else None
                if meant and isinstance(event, TurnEnd) and _lasts(event, reading.so_far):
                    self._put(meant, lookup.question, event)
                yield event

    def _put(self, key: CacheKey, question: Question | None, answer: TurnEnd) -> None:
        packed = pickle.dumps(replace(answer, queue_ms=0.0, cached_tokens=answer.generation.prompt_tokens))
        if key.digest not in self._served or len(packed) > self._answers.maxsize:
            return
        self._answers[key] = packed
        if self._index and question:
            self._index.add(question, key)


def _lasts(answer: TurnEnd, read: FoundPassages) -> bool:
    """Whether it would come out the same: what a tool told or did is of its moment, as is a search that failed."""
    return not read.failed and all(step.tool == lookup_tool.NAME for step in answer.steps)


def fingerprint(ask: TurnRequest) -> str:
    """The sha256 of all that `ask` says, but for its name; what greedy decoding ignores does not count."""
    sampling = ask.sampling
    if sampling.temperature == 0:
        sampling = replace(sampling, top_p=1.0, seed=None)
    return hashlib.sha256(_ASK.dump_json(replace(ask, key="", sampling=sampling))).hexdigest()
