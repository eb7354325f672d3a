"""The files of a retrieval index: passages, query expansions and their vectors, written, checked and published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.core.files import new_folder, sha256_file, sha256_tree, write_json, write_text
from tasks.core.paths import INDEXES
from tasks.core.records import Record
from tasks.model_package import artifact_store
from tasks.retrieval.chunks import Passage
from tasks.retrieval.embedder import Embedder, Vectors

INFO = "index.json"


CHUNKS = "chunks.jsonl"


EXPANSIONS = "asked.jsonl"


VECTORS = "vectors.npy"


_BATCH = 16


class IndexInfo(Record):
    """`index.json`: the description of an index."""

    embedding: str
    """Digest of the embedding model."""
    max_tokens: int
    """Limit of a passage with its headings, in tokens."""
    documents: int
    """Number of documents."""
    chunks: int
    """Number of passages."""
    asked: int
    """Number of query expansions."""
    dimensions: int
    """Length of a vector."""
    files: dict[str, str]
    """sha256 of each other file, by name."""


class Expansion(Record):
    """A query expansion: a question with the passage that answers it."""

    place: int
    """Index of the passage in `chunks.jsonl`, from 0."""
    question: str
    """The question that the passage answers."""


@dataclass(frozen=True)
class Index:
    """An index in memory."""

    digest: str
    """sha256 of `index.json`."""
    info: IndexInfo
    """The content of `index.json`."""
    chunks: tuple[Passage, ...]
    """The passages."""
    expansions: tuple[Expansion, ...]
    """The query expansions."""
    vectors: Vectors
    """Unit vectors [chunks + expansions, dimensions], in that order."""


def build_index(
    chunks: Sequence[Passage],
    embedder: Embedder,
    max_tokens: int,
    target: Path,
    expansions: Sequence[tuple[str, tuple[int, ...]]] = (),
) -> IndexInfo:
    """Embed passages and write the index; `target` is whole or untouched. Without documents the index is empty.

    Args:
        chunks: the passages.
        embedder: the embedding model.
        max_tokens: limit of a passage with its headings, in tokens; it is only recorded in `index.json`.
        target: folder of the index.
        expansions: questions with the indices of their section's passages
            (`tasks.retrieval.expansion.read_expansions`); each goes to the nearest of these passages.

    Raises:
        TextTooLongError: a text exceeds the embedding model's maximum length.
    """
    passage_vectors = _embed_all([chunk.embedded for chunk in chunks], embedder)
    question_vectors = _embed_all([question for question, _ in expansions], embedder)
    nearest = [
        max(indices, key=lambda index: float(passage_vectors[index] @ vector))
        for (_, indices), vector in zip(expansions, question_vectors, strict=True)
    ]
    with new_folder(target) as folder:
        write_text(folder / CHUNKS, "".join(chunk.model_dump_json() + "\n" for chunk in chunks))
        assigned = [
            Expansion(place=index, question=question) for index, (question, _) in zip(nearest, expansions, strict=True)
        ]
        write_text(folder / EXPANSIONS, "".join(expansion.model_dump_json() + "\n" for expansion in assigned))
        np.save(folder / VECTORS, np.concatenate([passage_vectors, question_vectors]))
        info = IndexInfo(
            embedding=embedder.digest,
            max_tokens=max_tokens,
            documents=len({chunk.source for chunk in chunks}),
            chunks=len(chunks),
            asked=len(expansions),
            dimensions=passage_vectors.shape[1],
            files=sha256_tree(folder),
        )
        write_json(folder / INFO, info.model_dump())
    return info


def _embed_all(texts: Sequence[str], embedder: Embedder) -> Vectors:
    if not texts:
        return np.empty((0, embedder.info.dimensions), dtype=np.float32)
    ids = embedder.encode(texts)
    return np.concatenate([embedder.embed(ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH)])


def read_index(folder: Path) -> Index:
    """Load an index after a check of every byte.

    Raises:
        GraftError: a file is missing, or differs from its sha256 in `index.json`.
    """
    info = artifact_store.read(folder, INFO, IndexInfo, "index", "index")
    chunks = tuple(Passage.model_validate_json(line) for line in _lines(folder / CHUNKS))
    expansions = tuple(Expansion.model_validate_json(line) for line in _lines(folder / EXPANSIONS))
    return Index(sha256_file(folder / INFO), info, chunks, expansions, np.load(folder / VECTORS, allow_pickle=False))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def publish(built: Path, root: Path = INDEXES) -> str:
    """Copy an index into the folder that it is served from; returns its digest.

    Raises:
        GraftError: as `read_index`.
    """
    read_index(built)
    return artifact_store.publish(built, INFO, root)
