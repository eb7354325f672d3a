"""The files of a retrieval index: passages, query expansions and their vectors."""

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
    """An index: the digest of its retrieval model, how much it holds, its files' sha256."""

    embedding: str
    max_tokens: int
    documents: int
    chunks: int
    asked: int
    dimensions: int
    files: dict[str, str]


class Expansion(Record):
    """A question, and the place among the chunks of the one that answers it."""

    place: int
    question: str


@dataclass(frozen=True)
class Index:
    """An index in memory; its digest is the sha256 of `index.json`.

    Attributes:
        vectors: [chunks + asked, dimensions], of length 1, in that order.
    """

    digest: str
    info: IndexInfo
    chunks: tuple[Passage, ...]
    expansions: tuple[Expansion, ...]
    vectors: Vectors


def build_index(
    chunks: Sequence[Passage],
    embedder: Embedder,
    max_tokens: int,
    target: Path,
    asked: Sequence[tuple[str, tuple[int, ...]]] = (),
) -> IndexInfo:
    """Embed chunks and write the index; `target` is whole or untouched. Without documents there are none.

    Args:
        asked: questions that a section answers, with the places of its chunks
            (`tasks.retrieval.expansion.read_expansions`); of several chunks the nearest to the question has it.

    Raises:
        TextTooLongError: a text is longer than the retrieval model's window.
    """
    own = _embed_all([chunk.embedded for chunk in chunks], embedder)
    theirs = _embed_all([question for question, _ in asked], embedder)
    places = [
        max(of, key=lambda place: float(own[place] @ vector)) for (_, of), vector in zip(asked, theirs, strict=True)
    ]
    with new_folder(target) as folder:
        write_text(folder / CHUNKS, "".join(chunk.model_dump_json() + "\n" for chunk in chunks))
        kept = [Expansion(place=place, question=question) for place, (question, _) in zip(places, asked, strict=True)]
        write_text(folder / EXPANSIONS, "".join(one.model_dump_json() + "\n" for one in kept))
        np.save(folder / VECTORS, np.concatenate([own, theirs]))
        info = IndexInfo(
            embedding=embedder.digest,
            max_tokens=max_tokens,
            documents=len({chunk.source for chunk in chunks}),
            chunks=len(chunks),
            asked=len(asked),
            dimensions=own.shape[1],
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
    """An index, after checking it byte for byte.

    Raises:
        GraftError: a file is missing, or not what `index.json` says.
    """
    info = artifact_store.read(folder, INFO, IndexInfo, "index", "index")
    chunks = tuple(Passage.model_validate_json(line) for line in _lines(folder / CHUNKS))
    asked = tuple(Expansion.model_validate_json(line) for line in _lines(folder / EXPANSIONS))
    return Index(sha256_file(folder / INFO), info, chunks, asked, np.load(folder / VECTORS, allow_pickle=False))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def publish(built: Path, root: Path = INDEXES) -> str:
    """Copy an index to where it is served from; returns its digest.

    Raises:
        GraftError: as `read_index`.
    """
    read_index(built)
    return artifact_store.publish(built, INFO, root)
