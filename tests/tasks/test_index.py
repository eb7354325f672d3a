"""The stage `index`: equal documents give equal bytes, and a changed index is rejected.

It also tests `tasks/retrieval/index_files.py`.

Also covers `tasks/model_package/artifact_store.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.core.errors import GraftError
from tasks.core.files import sha256_file, sha256_tree
from tasks.core.settings import EmbeddingSettings
from tasks.embedding import bring_in
from tasks.index import index_folder
from tasks.retrieval.embedder import Embedder
from tasks.retrieval.index_files import CHUNKS, INFO, VECTORS, read_index
from tests.conftest import embedding_source


@pytest.fixture
def embedder(tiny_embedding: Path, tmp_path: Path) -> Embedder:
    values = {"name": "tiny", "license": "MIT", "max_length": 60, **embedding_source(tiny_embedding)}
    bring_in(EmbeddingSettings.model_validate(values), tmp_path / "embedding")
    return Embedder(tmp_path / "embedding", threads=1)


@pytest.fixture
def knowledge(tmp_path: Path) -> Path:
    folder = tmp_path / "knowledge"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.md").write_text(f"# Rose {number}\n\nPrune it.\n\n## When\n\nIn May.\u2028Or {number}.\n")
    return folder


def test_equal_documents_give_equal_bytes(embedder: Embedder, knowledge: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        index_folder(knowledge, embedder, 40, tmp_path / name)
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two")
    (knowledge / "3.md").write_text("# Rose 3\n\nPrune it hard.\n")
    index_folder(knowledge, embedder, 40, tmp_path / "two")
    assert sha256_file(tmp_path / "one" / INFO) != sha256_file(tmp_path / "two" / INFO)


def test_vectors_are_those_of_the_chunks_with_their_headings(
    embedder: Embedder, knowledge: Path, tmp_path: Path
) -> None:
    info = index_folder(knowledge, embedder, 40, tmp_path / "index")
    assert (info.documents, info.chunks, info.dimensions, info.embedding) == (20, 40, 8, embedder.digest)
    index = read_index(tmp_path / "index")
    assert index.digest == sha256_file(tmp_path / "index" / INFO)
    assert index.chunks[1].embedded == "Rose 0 > When\nIn May.\u2028Or 0."
    alone = [embedder.embed(embedder.encode([chunk.embedded]))[0] for chunk in index.chunks]
    assert np.allclose(index.vectors, alone, atol=1e-6)


def test_questions_lie_behind_the_chunks_each_with_the_nearest_of_its_section(
    embedder: Embedder, tmp_path: Path
) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    (folder / "a.md").write_text(f"# A\n\n{'rose ' * 6}\n\n{'zzzz ' * 6}")
    expansions = tmp_path / "asked.jsonl"
    expansions.write_text('{"article": "a.md", "heading": "A", "asked": ["zzz zzz", "rose rose", "zz"]}\n')
    for name in ("one", "two"):
        info = index_folder(folder, embedder, 40, tmp_path / name, expansions)
    assert (info.chunks, info.asked) == (2, 3)
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two")
    index = read_index(tmp_path / "one")
    assert [(one.place, one.question) for one in index.expansions] == [(1, "zzz zzz"), (0, "rose rose"), (1, "zz")]
    alone = [embedder.embed(embedder.encode([one.question]))[0] for one in index.expansions]
    assert np.allclose(index.vectors[2:], alone, atol=1e-6)
    without = index_folder(folder, embedder, 40, tmp_path / "without", tmp_path / "missing.jsonl")
    assert without.asked == 0
    assert read_index(tmp_path / "without").vectors.shape == (2, 8)


def test_a_changed_or_missing_file_is_refused(embedder: Embedder, knowledge: Path, tmp_path: Path) -> None:
    built = tmp_path / "index"
    index_folder(knowledge, embedder, 40, built)
    (built / CHUNKS).write_text((built / CHUNKS).read_text().replace("May", "Mai"))
    with pytest.raises(GraftError, match=r"not those that index.json lists: .*chunks.jsonl"):
        read_index(built)
    (built / VECTORS).unlink()
    (built / INFO).unlink()
    with pytest.raises(GraftError, match="run the stage `index` first"):
        read_index(built)


def test_chunks_longer_than_the_model_reads_are_refused(embedder: Embedder, knowledge: Path, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"index.max_tokens: 61, but tiny reads at most 60 tokens"):
        index_folder(knowledge, embedder, 61, tmp_path / "index")
    assert not (tmp_path / "index").exists()
