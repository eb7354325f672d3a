"""Stage `index`: the retrieval index of `data/knowledge`, its passages and their vectors.

build/index/    chunks.jsonl    one passage per line (`tasks.retrieval.chunks.Passage`)
                asked.jsonl     one query expansion per line, with its passage (`tasks.retrieval.index_files.Expansion`)
                vectors.npy     float32 [passages + expansions, dimensions], of length 1, in the same order
                index.json      the embedding model and sizes, and the sha256 of the other files

Equal documents and expansions give equal bytes, so the sha256 of `index.json` names the index. No database
is stored here, because LanceDB's files differ from build to build; `tasks/retrieval/search.py` makes its
table from these files.
"""

from __future__ import annotations

from pathlib import Path

from tasks.core.errors import GraftError, run_main
from tasks.core.paths import BUILT_EMBEDDING, BUILT_INDEX, KNOWLEDGE, QUERY_EXPANSIONS
from tasks.core.settings import load_settings
from tasks.retrieval.chunks import chunk_folder
from tasks.retrieval.embedder import Embedder
from tasks.retrieval.expansion import read_expansions
from tasks.retrieval.index_files import IndexInfo, build_index


def index_folder(
    knowledge: Path, embedder: Embedder, max_tokens: int, target: Path, expansions: Path | None = None
) -> IndexInfo:
    """Chunk and embed the documents below `knowledge`, and their query expansions.

    Args:
        knowledge: folder of the documents.
        embedder: the embedding model.
        max_tokens: limit of a passage with its headings, in tokens.
        target: folder of the index; it is whole or untouched.
        expansions: file of the query expansions; None for an index without them.

    Raises:
        GraftError: a document or expansion cannot be read or cut, or `max_tokens` is above the model's maximum length.
    """
    if max_tokens > embedder.info.window:
        raise GraftError(
            f"params.yaml, index.max_tokens: {max_tokens}, but {embedder.info.name} reads at most "
            f"{embedder.info.window} tokens (embedding.max_length)"
        )
    chunks = chunk_folder(knowledge, embedder.count, max_tokens)
    return build_index(chunks, embedder, max_tokens, target, read_expansions(expansions, chunks) if expansions else ())


def main() -> None:
    embedder = Embedder(BUILT_EMBEDDING, threads=1)
    info = index_folder(KNOWLEDGE, embedder, load_settings().index.max_tokens, BUILT_INDEX, QUERY_EXPANSIONS)
    print(f"index: {info.chunks} passages of {info.documents} documents, {info.asked} query expansions")


if __name__ == "__main__":
    run_main(main)
