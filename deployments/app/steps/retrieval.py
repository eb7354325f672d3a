"""What the shop's documents say to a turn, where the model finds it when it looks it up.

Most turns look nothing up, and all of them lean on what was found only once they have words to
check. So the search goes on beside the model (`Reading`), and whoever needs it waits for its end.

Each package names the index that it was trained with, and reads that one for as long as it is
served. A passage that carries an attack is cleaned once, when its index is opened.
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
    """What was found: `given` to a model that looks it up; an answer may lean on all of `known`.

    `searched` is false where there is nothing to search, or the search `failed`.
    """

    shown: tuple[Passage, ...] = ()
    grounding: tuple[Passage, ...] = ()
    searched: bool = False
    failed: bool = False


class PendingPassages:
    """A search that has begun."""

    def __init__(self, search: Coroutine[Any, Any, FoundPassages]) -> None:
        self._search = asyncio.create_task(search)

    async def wait(self) -> FoundPassages:
        """What was found. Who stops waiting stops nobody else."""
        return await asyncio.shield(self._search)

    @property
    def so_far(self) -> FoundPassages:
        """What was found, if the search is over; nothing until then, or if it broke."""
        over = self._search.done() and not self._search.cancelled() and not self._search.exception()
        return self._search.result() if over else FoundPassages()


class PassageSearch:
    """Searches the indexes of the packages that are served.

    Args:
        indexes: where they are published.
        tables: where LanceDB's tables are kept; they can be made again at any time.
        embed: the served retrieval model.
        safety: looks at what is read.
    """

    def __init__(self, indexes: Path, tables: Path, embed: Embedder, safety: Guardrails) -> None:
        self._indexes = indexes
        self._tables = tables
        self._embed = embed
        self._attacks = safety.only("poisoned_data")
        self._opened: dict[Grounding, tuple[PassageIndex, dict[str, Passage]]] = {}

    def keep(self, groundings: Iterable[Grounding]) -> None:
        """Open what these need, and forget the rest. Takes seconds the first time.

        Raises:
            GraftError: an index is missing, or not what it says.
        """
        self._opened = {grounding: self._opened.get(grounding) or self._open(grounding) for grounding in groundings}

    def begin(self, grounding: Grounding | None, ask: TurnRequest) -> PendingPassages:
        """Look for passages for a chat. Without any, or if the search fails, its turn goes on as it is."""
        return PendingPassages(self._search(grounding, ask))

    async def _search(self, grounding: Grounding | None, ask: TurnRequest) -> FoundPassages:
        asked = retrieval_queries(ask.messages, grounding.turns) if grounding and ask.text is None else []
        opened = self._opened.get(grounding) if grounding else None
        if not grounding or not opened or not asked:
            return FoundPassages()
        try:
            vectors = await self._embed(asked)
        except GraftError as error:
            _LOG.warning("no passages for a turn: %s", error)
            return FoundPassages(failed=True)
        passages, cleaned = opened
        found = await asyncio.to_thread(_find, passages, asked, vectors, grounding.known)
        given = tuple(cleaned[chunk] for chunk in found[0][: grounding.passages])
        known = tuple(cleaned[chunk] for chunk in dict.fromkeys(chunk for chunks in found for chunk in chunks))
        return FoundPassages(given, known, searched=bool(passages.chunks))

    def _open(self, grounding: Grounding) -> tuple[PassageIndex, dict[str, Passage]]:
        passages = PassageIndex(self._indexes / grounding.index, self._tables, grounding.retrieval)
        return passages, {chunk.id: self._clean(chunk) for chunk in passages.chunks}

    def _clean(self, chunk: Passage) -> Passage:
        # The shop's own documents hold its own addresses, so only attacks are looked for.
        checked = self._attacks.check("data", chunk.text)
        if not checked.blocked and checked.text == chunk.text:
            return chunk
        _LOG.warning("%s: an instruction in it is left out", chunk.id)
        return chunk.model_copy(update={"text": "" if checked.blocked else checked.text})


def _find(passages: PassageIndex, asked: Sequence[str], vectors: Vectors, k: int) -> list[list[str]]:
    """The ids of the `k` best chunks for each question, the best first."""
    found = (passages.find(question, vector, k) for question, vector in zip(asked, vectors, strict=True))
    return [[hit.chunk.id for hit in hits] for hits in found]
