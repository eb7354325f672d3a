"""Retrieval: searches the shop's documents for the passages that a turn may need.

Most turns look nothing up, and all of them rely on what was found only once there is text to check.
So the search runs beside the model (`PendingPassages`), and the steps that need it wait for its end.

Each package names the index that it was trained with, and searches that one for as long as it is
served. A passage that contains an attack is cleaned once, when its index is opened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.app.guardrails.checks import Guardrails
from deployments.core.messages import Embedder, TurnRequest, Vectors
from tasks.core.errors import GraftError
from tasks.model_package.manifest import Grounding
from tasks.retrieval.chunks import Passage
from tasks.retrieval.queries import retrieval_queries
from tasks.retrieval.search import PassageIndex

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundPassages:
    """The passages found for a turn."""

    shown: tuple[Passage, ...] = ()
    """The passages that a model reads which looks them up, best first."""
    grounding: tuple[Passage, ...] = ()
    """All passages on which the answer may rely."""
    searched: bool = False
    """False where there is nothing to search, or the search failed."""
    failed: bool = False
    """Whether the search failed."""


class PendingPassages:
    """A search that is running."""

    def __init__(self, search: Coroutine[Any, Any, FoundPassages]) -> None:
        self._search = asyncio.create_task(search)

    async def wait(self) -> FoundPassages:
        """The passages. A cancelled wait does not cancel the search for others."""
        return await asyncio.shield(self._search)

    @property
    def so_far(self) -> FoundPassages:
        """The passages, if the search is over; none until then, or if it raised."""
        over = self._search.done() and not self._search.cancelled() and not self._search.exception()
        return self._search.result() if over else FoundPassages()


class PassageSearch:
    """Searches the indexes of the packages that are served.

    Args:
        indexes: folder of the published indexes.
        tables: folder of LanceDB's tables; they can be rebuilt at any time.
        embed: the served retrieval model.
        guardrails: the checks; passages are cleaned of attacks.
    """

    def __init__(self, indexes: Path, tables: Path, embed: Embedder, guardrails: Guardrails) -> None:
        self._indexes = indexes
        self._tables = tables
        self._embed = embed
        self._attack_check = guardrails.only("poisoned_data")
        self._open_indexes: dict[Grounding, tuple[PassageIndex, dict[str, Passage]]] = {}

    def keep(self, groundings: Iterable[Grounding]) -> None:
        """Open the indexes that these need, and close the others. Takes seconds the first time.

        Raises:
            GraftError: an index is missing, or its files do not match their hashes.
        """
        self._open_indexes = {
            grounding: self._open_indexes.get(grounding) or self._open(grounding) for grounding in groundings
        }

    def begin(self, grounding: Grounding | None, request: TurnRequest) -> PendingPassages:
        """Start the search for a chat. Without passages, or if the search fails, the turn goes on as it is."""
        return PendingPassages(self._search(grounding, request))

    async def _search(self, grounding: Grounding | None, request: TurnRequest) -> FoundPassages:
        queries = retrieval_queries(request.messages, grounding.turns) if grounding and request.text is None else []
        opened = self._open_indexes.get(grounding) if grounding else None
        if not grounding or not opened or not queries:
            return FoundPassages()
        try:
            vectors = await self._embed(queries)
        except GraftError as error:
            _LOG.warning("no passages for a turn: %s", error)
            return FoundPassages(failed=True)
        index, cleaned = opened
        found = await asyncio.to_thread(_find, index, queries, vectors, grounding.known)
        shown = tuple(cleaned[passage] for passage in found[0][: grounding.passages])
        every = dict.fromkeys(passage for passages in found for passage in passages)
        return FoundPassages(shown, tuple(cleaned[passage] for passage in every), searched=bool(index.chunks))

    def _open(self, grounding: Grounding) -> tuple[PassageIndex, dict[str, Passage]]:
        index = PassageIndex(self._indexes / grounding.index, self._tables, grounding.retrieval)
        return index, {passage.id: self._clean(passage) for passage in index.chunks}

    def _clean(self, passage: Passage) -> Passage:
        # The shop's documents contain its own addresses, so only attacks are removed.
        checked = self._attack_check.check("data", passage.text)
        if not checked.blocked and checked.text == passage.text:
            return passage
        _LOG.warning("%s: an instruction in it is left out", passage.id)
        return passage.model_copy(update={"text": "" if checked.blocked else checked.text})


def _find(index: PassageIndex, queries: Sequence[str], vectors: Vectors, k: int) -> list[list[str]]:
    """The ids of the `k` best passages for each query, best first."""
    found = (index.find(query, vector, k) for query, vector in zip(queries, vectors, strict=True))
    return [[hit.chunk.id for hit in hits] for hits in found]
