"""Hybrid search in the index: the passages that may answer a question, or none.

A LanceDB table has a row for each passage and for each query expansion: text, vector, and the passage's
index (column `place`). A question is searched by its vector (exact, no approximate index) and by its
keywords (BM25 of stems without stop words). The vector similarity of a passage is the weighted mean of
the cosine of its own text and of the mean cosine of the few nearest of its expansions; in keyword search
its best row counts. The two rankings are joined by reciprocal rank fusion, in which keywords weigh less.
If no passage reaches the minimum similarity, nothing relevant was found and the result is empty.

The vectors are read from the table once and multiplied in memory, which suits thousands of them, not
millions (docs/benchmarks.md). The table is made from the index, is never changed, and can be deleted at
any time. LanceDB takes 1.7 s to import, so the import waits until a table is opened.
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
"""Rows of keyword search per passage wanted: a passage and its expansions may all be among the hits."""


@dataclass(frozen=True)
class Hit:
    """A search hit: a passage with its score."""

    chunk: Passage
    """The passage."""
    score: float
    """Score of reciprocal rank fusion; higher is better."""
    cosine: float
    """Cosine, -1 to 1, of the question with the passage's text or with its nearest expansion, whichever is higher."""


@dataclass(frozen=True)
class VectorSimilarity:
    """The vector similarity of every passage to one question."""

    similarity: Vector
    """Similarity by which passages are ranked, [passages]."""
    cosines: Vector
    """Highest cosine of each passage, of its text or an expansion, [passages]."""
    is_relevant: bool
    """Whether any passage reaches its minimum similarity."""

    def order(self, k: int) -> list[int]:
        """Indices of the `k` most similar passages, the most similar first."""
        return np.argsort(-self.similarity, kind="stable")[:k].tolist()


class VectorIndex:
    """The vectors of a table in memory.

    Args:
        rows: the table with the columns `row` (passages first, in their order), `place` and `vector`.
        chunks: number of rows that are passages.
        settings: the section `retrieval` of params.yaml.
    """

    def __init__(self, rows: pa.Table, chunks: int, settings: RetrievalSettings) -> None:
        rows = rows.sort_by("row")
        flat = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self._vectors = np.ascontiguousarray(flat.reshape(len(rows), -1))
        self._chunks, self._weight = chunks, settings.text_weight
        owners = rows["place"].to_numpy()[chunks:]  # the passage of each expansion
        counts = np.bincount(owners, minlength=chunks)
        # [passages, most expansions of a passage]: the rows of its expansions, padded by a row that does not exist.
        self._expansions = np.full((chunks, counts.max(initial=0)), len(rows))
        order = np.argsort(owners, kind="stable")
        column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._expansions[owners[order], column] = chunks + order
        self._nearest = min(settings.nearest_expansions, self._expansions.shape[1])
        self._counted = np.minimum(counts, self._nearest)
        self._min_similarity = np.where(counts > 0, settings.min_expansion_similarity, settings.min_similarity)

    def similarity_to(self, vector: Vector) -> VectorSimilarity:
        """The similarity of the passages to a question with this unit vector [dimensions]."""
        # Not `@`, because BLAS may use several threads for it, which on a busy machine wait for each other for 30 ms.
        cosines = np.einsum("ij,j->i", self._vectors, vector)
        text = cosines[: self._chunks]
        if not self._nearest:
            return VectorSimilarity(text, text, bool((text >= self._min_similarity).any()))
        expansions = np.append(cosines, -np.inf)[self._expansions]
        best = -np.partition(-expansions, range(self._nearest), axis=1)[:, : self._nearest]
        mean = np.where(np.isfinite(best), best, 0.0).sum(axis=1) / np.maximum(self._counted, 1)
        similarity = np.where(self._counted > 0, self._weight * text + (1 - self._weight) * mean, text)
        highest = np.maximum(text, best[:, 0])
        return VectorSimilarity(similarity, highest, bool((highest >= self._min_similarity).any()))


class PassageIndex:
    """An index of passages with its open LanceDB table. Several threads may search it concurrently.

    Args:
        index: a folder like `build/index`.
        tables: folder of the LanceDB tables, each under its index's digest; a missing table is made there.
        settings: the section `retrieval` of params.yaml.

    Raises:
        GraftError: the index is missing, or a file differs from its sha256 in `index.json`.
    """

    def __init__(self, index: Path, tables: Path, settings: RetrievalSettings) -> None:
        content = read_index(index)
        self.digest = content.digest
        self.info = content.info
        self.chunks = content.chunks
        self._settings = settings
        if content.chunks:  # an empty index never has a hit, so `find` does not need the table
            self._table = open_table(content, tables)
            self._vectors = VectorIndex(self._table.to_arrow(), len(content.chunks), settings)

    def by_vector(self, vector: Vector, k: int) -> list[int]:
        """Indices in `chunks` of the `k` passages that are nearest by vector, nearest first."""
        return self._vectors.similarity_to(vector).order(k)

    def by_keywords(self, question: str, k: int) -> list[int]:
        """Indices in `chunks` of at most `k` passages that share keywords with the question, the best (BM25) first."""
        query = self._table.search(question, query_type="fts", fts_columns="text")
        rows = query.select(["place", "_score"]).limit(_ROWS * k).to_arrow()
        return list(dict.fromkeys(rows["place"].to_pylist()))[:k]

    def find(self, question: str, vector: Vector, k: int) -> tuple[Hit, ...]:
        """The `k` best passages for a question with this unit vector [dimensions], the best first.

        The result is empty if no passage reaches the minimum similarity.
        """
        if not self.chunks:
            return ()
        settings = self._settings
        by_vector = self._vectors.similarity_to(vector)
        if not by_vector.is_relevant:
            return ()
        nearest = by_vector.order(max(k, settings.candidates))
        by_keywords = self.by_keywords(question, max(k, settings.candidates))
        scores = reciprocal_rank_fusion([(nearest, 1.0), (by_keywords, settings.bm25_weight)], settings.rrf_k)
        cosines = by_vector.cosines
        best = sorted(scores, key=lambda index: (-scores[index], -cosines[index], index))[:k]
        return tuple(Hit(self.chunks[index], scores[index], float(cosines[index])) for index in best)


def reciprocal_rank_fusion(rankings: Iterable[tuple[Sequence[int], float]], k: int) -> dict[int, float]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): a ranking adds weight / (k + rank) to each item.

    Args:
        rankings: each a list of items, the best first, with its weight.
        k: the constant of the formula; a higher one flattens the differences between ranks.
    """
    scores: dict[int, float] = {}
    for ranking, weight in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + weight / (k + rank)
    return scores


class Retriever:
    """The retriever: an index of passages with the embedding model of its vectors.

    Args:
        passages: the index.
        embedder: the embedding model.

    Raises:
        GraftError: the index was made with another embedding model.
    """

    def __init__(self, passages: PassageIndex, embedder: Embedder) -> None:
        if passages.info.embedding != embedder.digest:
            raise GraftError(
                f"the index was made with the embedding model {passages.info.embedding[:12]}, but the current one is "
                f"{embedder.digest[:12]}; run the stage `index` again"
            )
        self._passages, self._embedder = passages, embedder

    def search(self, query: str, k: int) -> tuple[Hit, ...]:
        """The `k` best passages for a question, the best first; empty if nothing relevant was found.

        Raises:
            TextTooLongError: the question exceeds the embedding model's maximum length.
        """
        return self._passages.find(query, self._embedder.embed(self._embedder.encode([query]))[0], k)


def open_table(index: Index, tables: Path) -> Table:
    """The LanceDB table of an index, made if it does not exist yet."""
    import lancedb

    folder = tables / index.digest
    if not folder.is_dir():
        tables.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=tables) as temporary:
            made = Path(temporary) / index.digest
            _make_table(index, made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # if it exists, another process has made it first, with the same content
                    raise
    return lancedb.connect(folder).open_table(_TABLE)


def _make_table(index: Index, folder: Path) -> None:
    import lancedb
    from lancedb.index import FTS

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(index.vectors.ravel()), index.info.dimensions)
    texts = [*(chunk.embedded for chunk in index.chunks), *(expansion.question for expansion in index.expansions)]
    indices = [*range(len(index.chunks)), *(expansion.place for expansion in index.expansions)]
    content = pa.table({"row": range(len(texts)), "place": indices, "text": texts, "vector": vectors})
    table = lancedb.connect(folder).create_table(_TABLE, content)
    table.create_index("text", config=FTS(language="English", stem=True, remove_stop_words=True))
