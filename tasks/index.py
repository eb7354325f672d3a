"""Stage `index`: the knowledge as chunks and their vectors, which retrieval searches.

build/index/    chunks.jsonl    a chunk a line (`tasks.chunks.Chunk`)
                vectors.npy     float32 [chunks, dimensions], of length 1, in the same order
                index.json      what it was made with, and the sha256 of both

Equal documents give equal bytes, so the sha256 of `index.json` names the index. No database is
kept here: LanceDB's files differ from build to build; `tasks/retrieval.py` makes its table from these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks import published
from tasks.chunks import Chunk, chunk_folder
from tasks.embedding import Embedder, Vectors
from tasks.errors import GraftError, run_main
from tasks.files import new_folder, sha256_file, sha256_tree, write_json, write_text
from tasks.layout import BUILT_EMBEDDING, BUILT_INDEX, INDEXES, KNOWLEDGE
from tasks.records import Record
from tasks.settings import load_settings

INFO = "index.json"
CHUNKS = "chunks.jsonl"
VECTORS = "vectors.npy"
_BATCH = 16


class IndexInfo(Record):
    """An index: the digest of its retrieval model, how much it holds, its files' sha256."""

    embedding: str
    max_tokens: int
    documents: int
    chunks: int
    dimensions: int
    files: dict[str, str]


@dataclass(frozen=True)
class Index:
    """An index in memory: `vectors` [chunks, dimensions]; its digest is the sha256 of `index.json`."""

    digest: str
    info: IndexInfo
    chunks: tuple[Chunk, ...]
    vectors: Vectors


def build_index(chunks: Sequence[Chunk], embedder: Embedder, max_tokens: int, target: Path) -> IndexInfo:
    """Embed at least one chunk and write the index; `target` is whole or untouched.

    Raises:
        TextTooLongError: a chunk is longer than the retrieval model's window.
    """
    ids = embedder.encode([chunk.embedded for chunk in chunks])
    vectors = np.concatenate([embedder.embed(ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH)])
    with new_folder(target) as folder:
        write_text(folder / CHUNKS, "".join(chunk.model_dump_json() + "\n" for chunk in chunks))
        np.save(folder / VECTORS, vectors)
        info = IndexInfo(
            embedding=embedder.digest,
            max_tokens=max_tokens,
            documents=len({chunk.source for chunk in chunks}),
            chunks=len(chunks),
            dimensions=vectors.shape[1],
            files=sha256_tree(folder),
        )
        write_json(folder / INFO, info.model_dump())
    return info


def read_index(folder: Path) -> Index:
    """An index, after checking it byte for byte.

    Raises:
        GraftError: a file is missing, or not what `index.json` says.
    """
    try:
        info = IndexInfo.model_validate_json((folder / INFO).read_bytes())
    except (OSError, ValueError) as error:
        raise GraftError(f"{folder}: no index there; run the stage `index` first ({error})") from error
    if (found := sha256_tree(folder, frozenset({INFO}))) != info.files:
        raise GraftError(
            f"{folder}: its files are not those that {INFO} lists: {sorted(found.items() ^ info.files.items())}"
        )
    lines = (folder / CHUNKS).read_text(encoding="utf-8").split("\n")[:-1]
    chunks = tuple(Chunk.model_validate_json(line) for line in lines)
    return Index(sha256_file(folder / INFO), info, chunks, np.load(folder / VECTORS, allow_pickle=False))


def publish(built: Path, root: Path = INDEXES) -> str:
    """Copy an index to where it is served from; returns its digest.

    Raises:
        GraftError: as `read_index`.
    """
    read_index(built)
    return published.publish(built, INFO, root)


def index_folder(knowledge: Path, embedder: Embedder, max_tokens: int, target: Path) -> IndexInfo:
    """Cut and embed the documents below `knowledge`.

    Raises:
        GraftError: a document cannot be read or cut, or `max_tokens` is more than the model reads.
    """
    if max_tokens > embedder.info.window:
        raise GraftError(
            f"params.yaml, index.max_tokens: {max_tokens}, but {embedder.info.name} reads at most "
            f"{embedder.info.window} tokens (embedding.window)"
        )
    return build_index(chunk_folder(knowledge, embedder.count, max_tokens), embedder, max_tokens, target)


def main() -> None:
    embedder = Embedder(BUILT_EMBEDDING, threads=1)
    info = index_folder(KNOWLEDGE, embedder, load_settings().index.max_tokens, BUILT_INDEX)
    print(f"index: {info.chunks} chunks of {info.documents} documents")


if __name__ == "__main__":
    run_main(main)
