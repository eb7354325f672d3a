"""Stage `index`: the knowledge as chunks and their vectors, which retrieval searches.

build/index/    chunks.jsonl    a chunk a line (`tasks.retrieval.chunks.Chunk`)
                asked.jsonl     a question a line that a chunk answers (`Asked`)
                vectors.npy     float32 [chunks + questions, dimensions], of length 1, in the same order
                index.json      what it was made with, and the sha256 of the others

Equal documents and questions give equal bytes, so the sha256 of `index.json` names the index. No database is
kept here: LanceDB's files differ from build to build; `tasks/retrieval/search.py` makes its table from these.
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
    knowledge: Path, embedder: Embedder, max_tokens: int, target: Path, asked: Path | None = None
) -> IndexInfo:
    """Cut and embed the documents below `knowledge`, and the questions in the file `asked`.

    Raises:
        GraftError: a document or question cannot be read or cut, or `max_tokens` is more than the model reads.
    """
    if max_tokens > embedder.info.window:
        raise GraftError(
            f"params.yaml, index.max_tokens: {max_tokens}, but {embedder.info.name} reads at most "
            f"{embedder.info.window} tokens (embedding.max_length)"
        )
    chunks = chunk_folder(knowledge, embedder.count, max_tokens)
    return build_index(chunks, embedder, max_tokens, target, read_expansions(asked, chunks) if asked else ())


def main() -> None:
    embedder = Embedder(BUILT_EMBEDDING, threads=1)
    info = index_folder(KNOWLEDGE, embedder, load_settings().index.max_tokens, BUILT_INDEX, QUERY_EXPANSIONS)
    print(f"index: {info.chunks} chunks of {info.documents} documents, {info.asked} questions that they answer")


if __name__ == "__main__":
    run_main(main)
