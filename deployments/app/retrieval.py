"""What the shop's documents say to a turn, where the model finds it when it looks it up.

Each package names the index that it was trained with, and reads that one for as long as it is
served. A passage that carries an attack is cleaned once, when its index is opened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from deployments.app.safety.checks import Safety
from deployments.app.semantic import Embedder
from deployments.events import Ask
from tasks.chunks import Chunk
from tasks.errors import GraftError
from tasks.grounding import queries
from tasks.look_up import with_context
from tasks.manifest import Grounding
from tasks.retrieval import Passages

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Read:
    """An ask with its passages in place: `given` to a model that looks them up; an answer may lean on all of `known`.

    `searched` is false where there is nothing to search, or the search failed.
    """

    ask: Ask
    given: tuple[Chunk, ...] = ()
    known: tuple[Chunk, ...] = ()
    searched: bool = False


class Retrieval:
    """Searches the indexes of the packages that are served.

    Args:
        indexes: where they are published.
        tables: where LanceDB's tables are kept; they can be made again at any time.
        embed: the served retrieval model.
        safety: looks at what is read.
    """

    def __init__(self, indexes: Path, tables: Path, embed: Embedder, safety: Safety) -> None:
        self._indexes = indexes
        self._tables = tables
        self._embed = embed
        self._attacks = safety.only("poisoned_data")
        self._opened: dict[Grounding, tuple[Passages, dict[str, Chunk]]] = {}

    def keep(self, groundings: Iterable[Grounding]) -> None:
        """Open what these need, and forget the rest. Takes seconds the first time.

        Raises:
            GraftError: an index is missing, or not what it says.
        """
        self._opened = {grounding: self._opened.get(grounding) or self._open(grounding) for grounding in groundings}

    async def read(self, grounding: Grounding | None, ask: Ask) -> Read:
        """Find passages for a chat. Without any, or if the search fails, it goes on as it is."""
        asked = queries(ask.messages, grounding.turns) if grounding and ask.text is None else []
        opened = self._opened.get(grounding) if grounding else None
        if not grounding or not opened or not asked:
            return Read(ask)
        try:
            vectors = await self._embed(asked)
        except GraftError as error:
            _LOG.warning("no passages for a turn: %s", error)
            return Read(ask)
        passages, cleaned = opened
        found: list[tuple[Chunk, ...]] = []
        for query, vector in zip(asked, vectors, strict=True):
            hits = await asyncio.to_thread(passages.find, query, vector, grounding.known)
            found.append(tuple(cleaned[hit.chunk.id] for hit in hits))
        given = found[0][: grounding.passages]
        known = tuple({chunk.id: chunk for chunks in found for chunk in chunks}.values())
        grounded = replace(ask, messages=with_context(ask.messages, given))
        return Read(grounded, given, known, searched=bool(passages.chunks))

    def _open(self, grounding: Grounding) -> tuple[Passages, dict[str, Chunk]]:
        passages = Passages(self._indexes / grounding.index, self._tables, grounding.retrieval)
        return passages, {chunk.id: self._clean(chunk) for chunk in passages.chunks}

    def _clean(self, chunk: Chunk) -> Chunk:
        # The shop's own documents hold its own addresses, so only attacks are looked for.
        checked = self._attacks.look("data", chunk.text)
        if not checked.blocked and checked.text == chunk.text:
            return chunk
        _LOG.warning("%s: an instruction in it is left out", chunk.id)
        return chunk.model_copy(update={"text": "" if checked.blocked else checked.text})
