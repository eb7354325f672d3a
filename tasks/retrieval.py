"""Search in the index: the chunks that may answer a question, or none.

A LanceDB table holds chunks and vectors. A question is looked up by its vector (exact, no
approximate index) and by its words (BM25 of stems without stop words), and the two orders are joined
by reciprocal rank fusion, in which words count less. If no chunk found is as near as the floor,
nothing relevant was found, and that is an empty answer.

The table is made from the index and never changed; it can be thrown away at any time. LanceDB takes
1.7 s to import, so that waits until a table is opened.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.chunks import Chunk
from tasks.embedding import Embedder
from tasks.errors import GraftError
from tasks.index import Index, read_index
from tasks.settings import RetrievalSettings

if TYPE_CHECKING:
    from lancedb.query import LanceQueryBuilder
    from lancedb.table import Table

Vector = npt.NDArray[np.float32]

_TABLE = "chunks"


@dataclass(frozen=True)
class Hit:
    """A chunk that was found: its fused `score` (more is better) and its `cosine` to the question, -1 to 1."""

    chunk: Chunk
    score: float
    cosine: float


class Passages:
    """An opened table of chunks. It may be searched from several threads.

    Args:
        index: a folder like `build/index`.
        tables: where tables are kept, each under its index's digest; made there if it is missing.
        settings: the section `retrieval`.

    Raises:
        GraftError: the index is missing, or not what it says.
    """

    def __init__(self, index: Path, tables: Path, settings: RetrievalSettings) -> None:
        opened = read_index(index)
        self.digest = opened.digest
        self.info = opened.info
        self.chunks = opened.chunks
        self._settings = settings
        self._table = open_table(opened, tables)

    def by_vector(self, vector: Vector, k: int) -> dict[int, Vector]:
        """The `k` nearest chunks: their places in `chunks`, nearest first, with their vectors."""
        return _places(self._table.search(vector).limit(k))

    def by_words(self, question: str, k: int) -> dict[int, Vector]:
        """At most `k` chunks that share words with the question, the same way."""
        return _places(self._table.search(question, query_type="fts", fts_columns="text").limit(k))

    def find(self, question: str, vector: Vector, k: int) -> tuple[Hit, ...]:
        """The `k` best chunks for a question with this vector [dimensions] of length 1, the best first.

        Empty if none is as near as the floor.
        """
        settings = self._settings
        near = self.by_vector(vector, max(k, settings.candidates))
        alike = self.by_words(question, max(k, settings.candidates))
        cosines = {place: float(vector @ found) for place, found in {**alike, **near}.items()}
        if max(cosines.values()) < settings.floor:
            return ()
        scores = fuse([(list(near), 1.0), (list(alike), settings.words_weight)], settings.rank_offset)
        best = sorted(scores, key=lambda place: (-scores[place], -cosines[place], place))[:k]
        return tuple(Hit(self.chunks[place], scores[place], cosines[place]) for place in best)


def fuse(orders: Iterable[tuple[Sequence[int], float]], offset: int) -> dict[int, float]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): an order gives its weight / (offset + rank)."""
    scores: dict[int, float] = {}
    for order, weight in orders:
        for rank, place in enumerate(order, start=1):
            scores[place] = scores.get(place, 0.0) + weight / (offset + rank)
    return scores


def _places(query: LanceQueryBuilder) -> dict[int, Vector]:
    rows = query.to_arrow()
    vectors = (np.asarray(vector, dtype=np.float32) for vector in rows["vector"].to_pylist())
    return dict(zip(rows["place"].to_pylist(), vectors, strict=True))


class Retriever:
    """Passages with the retrieval model that their vectors are of.

    Raises:
        GraftError: the index was made with another model.
    """

    def __init__(self, passages: Passages, embedder: Embedder) -> None:
        if passages.info.embedding != embedder.digest:
            raise GraftError(
                f"the index was made with the retrieval model {passages.info.embedding[:12]}, this one is "
                f"{embedder.digest[:12]}: run the stage `index` again"
            )
        self._passages, self._embedder = passages, embedder

    def search(self, query: str, k: int) -> tuple[Hit, ...]:
        """The `k` best chunks for a question, the best first; empty if nothing relevant was found.

        Raises:
            TextTooLongError: the question has more tokens than the retrieval model reads.
        """
        return self._passages.find(query, self._embedder.embed(self._embedder.encode([query]))[0], k)


def open_table(index: Index, tables: Path) -> Table:
    """The table of an index, made if it is not there yet."""
    import lancedb

    home = tables / index.digest
    if not home.is_dir():
        tables.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=tables) as temporary:
            made = Path(temporary) / index.digest
            _make_table(index, made)
            try:
                made.rename(home)
            except OSError:
                if not home.is_dir():  # else another process was quicker, with the same content
                    raise
    return lancedb.connect(home).open_table(_TABLE)


def _make_table(index: Index, folder: Path) -> None:
    import lancedb
    from lancedb.index import FTS

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(index.vectors.ravel()), index.info.dimensions)
    texts = [chunk.embedded for chunk in index.chunks]
    content = pa.table({"place": range(len(texts)), "text": texts, "vector": vectors})
    table = lancedb.connect(folder).create_table(_TABLE, content)
    table.create_index("text", config=FTS(language="English", stem=True, remove_stop_words=True))
