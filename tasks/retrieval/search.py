"""Search in the index: the chunks that may answer a question, or none.

A LanceDB table has a row for each chunk and for each question that a chunk answers: text, vector,
and the chunk's place. A question is looked up by its vector (exact, no approximate index) and by its
words (BM25 of stems without stop words). How near a chunk is by vector is the weighted mean of the
cosine of its own text and of the mean cosine of the few nearest of its questions; by words, its best
row counts. The two orders are joined by reciprocal rank fusion, in which words count less. If no
chunk is as near as the floor, nothing relevant was found, and that is an empty answer.

The vectors are read from the table once and multiplied in memory, which suits thousands of them, not
millions (docs/benchmarks.md). The table is made from the index and never changed; it can be thrown
away at any time. LanceDB takes 1.7 s to import, so that waits until a table is opened.
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

from tasks.core.errors import GraftError
from tasks.core.settings import RetrievalSettings
from tasks.retrieval.chunks import Passage
from tasks.retrieval.embedder import Embedder
from tasks.retrieval.index_files import Index, read_index

if TYPE_CHECKING:
    from lancedb.table import Table

Vector = npt.NDArray[np.float32]

_TABLE = "chunks"
_ROWS = 3
"""Rows looked up by words for each chunk that is wanted: a chunk and its questions may all be among them."""


@dataclass(frozen=True)
class Hit:
    """A chunk that was found: its fused `score` (more is better) and its `cosine` to the question, -1 to 1.

    The cosine is of its text or of a question that it answers, whichever is nearer.
    """

    chunk: Passage
    score: float
    cosine: float


@dataclass(frozen=True)
class VectorSimilarity:
    """How near each chunk [chunks] is to a question: what orders them, the best cosine of each, and if one will do."""

    similarity: Vector
    cosines: Vector
    is_relevant: bool

    def order(self, k: int) -> list[int]:
        """The places of the `k` nearest chunks, nearest first."""
        return np.argsort(-self.similarity, kind="stable")[:k].tolist()


class VectorIndex:
    """The vectors of a table in memory.

    Args:
        rows: the table: `row` (chunks first, in their order), `place` and `vector`.
        chunks: how many of the rows are chunks.
        settings: the section `retrieval`.
    """

    def __init__(self, rows: pa.Table, chunks: int, settings: RetrievalSettings) -> None:
        rows = rows.sort_by("row")
        flat = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self._vectors = np.ascontiguousarray(flat.reshape(len(rows), -1))
        self._chunks, self._weight = chunks, settings.text_weight
        places = rows["place"].to_numpy()[chunks:]
        counts = np.bincount(places, minlength=chunks)
        # [chunks, most questions of a chunk]: the rows of each one's questions, then a row that does not exist.
        self._asked = np.full((chunks, counts.max(initial=0)), len(rows))
        order = np.argsort(places, kind="stable")
        column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._asked[places[order], column] = chunks + order
        self._nearest = min(settings.nearest_expansions, self._asked.shape[1])
        self._counted = np.minimum(counts, self._nearest)
        self._floors = np.where(counts > 0, settings.min_expansion_similarity, settings.min_similarity)

    def similarity_to(self, vector: Vector) -> VectorSimilarity:
        """How near the chunks are to a question with this vector [dimensions] of length 1."""
        # Not `@`: BLAS may spread it over threads, which on a busy machine wait for each other for 30 ms.
        cosines = np.einsum("ij,j->i", self._vectors, vector)
        text = cosines[: self._chunks]
        if not self._nearest:
            return VectorSimilarity(text, text, bool((text >= self._floors).any()))
        asked = np.append(cosines, -np.inf)[self._asked]
        best = -np.partition(-asked, range(self._nearest), axis=1)[:, : self._nearest]
        mean = np.where(np.isfinite(best), best, 0.0).sum(axis=1) / np.maximum(self._counted, 1)
        nearness = np.where(self._counted > 0, self._weight * text + (1 - self._weight) * mean, text)
        highest = np.maximum(text, best[:, 0])
        return VectorSimilarity(nearness, highest, bool((highest >= self._floors).any()))


class PassageIndex:
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
        if opened.chunks:  # else nothing is ever found, and nobody asks
            self._table = open_table(opened, tables)
            self._nearness = VectorIndex(self._table.to_arrow(), len(opened.chunks), settings)

    def by_vector(self, vector: Vector, k: int) -> list[int]:
        """The `k` nearest chunks: their places in `chunks`, nearest first."""
        return self._nearness.similarity_to(vector).order(k)

    def by_keywords(self, question: str, k: int) -> list[int]:
        """At most `k` chunks that share words with the question, the same way."""
        query = self._table.search(question, query_type="fts", fts_columns="text")
        rows = query.select(["place", "_score"]).limit(_ROWS * k).to_arrow()
        return list(dict.fromkeys(rows["place"].to_pylist()))[:k]

    def find(self, question: str, vector: Vector, k: int) -> tuple[Hit, ...]:
        """The `k` best chunks for a question with this vector [dimensions] of length 1, the best first.

        Empty if none is as near as the floor.
        """
        if not self.chunks:
            return ()
        settings = self._settings
        nearness = self._nearness.similarity_to(vector)
        if not nearness.is_relevant:
            return ()
        near = nearness.order(max(k, settings.candidates))
        alike = self.by_keywords(question, max(k, settings.candidates))
        scores = reciprocal_rank_fusion([(near, 1.0), (alike, settings.bm25_weight)], settings.rrf_k)
        cosines = nearness.cosines
        best = sorted(scores, key=lambda place: (-scores[place], -cosines[place], place))[:k]
        return tuple(Hit(self.chunks[place], scores[place], float(cosines[place])) for place in best)


def reciprocal_rank_fusion(orders: Iterable[tuple[Sequence[int], float]], offset: int) -> dict[int, float]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): an order gives its weight / (offset + rank)."""
    scores: dict[int, float] = {}
    for order, weight in orders:
        for rank, place in enumerate(order, start=1):
            scores[place] = scores.get(place, 0.0) + weight / (offset + rank)
    return scores


class Retriever:
    """Passages with the retrieval model that their vectors are of.

    Raises:
        GraftError: the index was made with another model.
    """

    def __init__(self, passages: PassageIndex, embedder: Embedder) -> None:
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
    texts = [*(chunk.embedded for chunk in index.chunks), *(asked.question for asked in index.expansions)]
    places = [*range(len(index.chunks)), *(asked.place for asked in index.expansions)]
    content = pa.table({"row": range(len(texts)), "place": places, "text": texts, "vector": vectors})
    table = lancedb.connect(folder).create_table(_TABLE, content)
    table.create_index("text", config=FTS(language="English", stem=True, remove_stop_words=True))
