"""Hybrid search in a real LanceDB table: by vector, by keywords, fused; a minimum similarity; a table per index."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.errors import GraftError
from tasks.core.settings import EmbeddingSettings, RetrievalSettings
from tasks.embedding import bring_in
from tasks.index import index_folder
from tasks.retrieval.embedder import Embedder, TextTooLongError
from tasks.retrieval.index_files import build_index, read_index
from tasks.retrieval.search import PassageIndex, Retriever, VectorIndex, reciprocal_rank_fusion
from tests.conftest import ROOT, embedding_source

SETTINGS = RetrievalSettings(
    candidates=3,
    rrf_k=20,
    bm25_weight=0.3,
    text_weight=0.4,
    nearest_expansions=2,
    min_similarity=-1.0,
    min_expansion_similarity=-1.0,
)
TEXTS = {
    "roses": "Prune in March.",
    "lilies": "Plants are guaranteed.",
    "ferns": "Water the fronds.",
    "zzz": "zzzz zz.",
}


def make_embedder(source: Path, folder: Path, **changed: object) -> Embedder:
    values = {"name": "tiny", "license": "MIT", "max_length": 80, **embedding_source(source), **changed}
    bring_in(EmbeddingSettings.model_validate(values), folder)
    return Embedder(folder, threads=1)


@pytest.fixture
def embedder(tiny_embedding: Path, tmp_path: Path) -> Embedder:
    return make_embedder(tiny_embedding, tmp_path / "embedding")


@pytest.fixture
def index(embedder: Embedder, tmp_path: Path) -> Path:
    write(tmp_path / "knowledge", TEXTS)
    index_folder(tmp_path / "knowledge", embedder, 80, tmp_path / "index")
    return tmp_path / "index"


def write(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)


def open_retriever(index: Path, embedder: Embedder, tables: Path, **changed: object) -> Retriever:
    return Retriever(PassageIndex(index, tables, SETTINGS.model_copy(update=changed)), embedder)


def test_ranks_are_fused_by_weight() -> None:
    scores = reciprocal_rank_fusion([([7, 8], 1.0), ([8, 9], 0.5)], 20)
    assert scores == pytest.approx({7: 1 / 21, 8: 1 / 22 + 0.5 / 21, 9: 0.5 / 22})


def test_a_chunks_own_text_finds_it_first_with_cosine_1(index: Path, embedder: Embedder, tmp_path: Path) -> None:
    retriever = open_retriever(index, embedder, tmp_path / "tables")
    for name, text in TEXTS.items():
        first, *others = retriever.search(f"{name}\n{text}", 3)
        assert (first.chunk.source, first.cosine) == (f"{name}.txt", pytest.approx(1, abs=1e-5))
        assert len(others) == 2
        assert all(hit.score <= first.score for hit in others)
    assert len(retriever.search("roses", 1)) == 1


def test_words_are_stemmed_and_find_what_the_vector_does_not(index: Path, embedder: Embedder, tmp_path: Path) -> None:
    question = "zzzz zz. zzzz: guarantee?"
    by_vector = open_retriever(index, embedder, tmp_path / "tables", bm25_weight=0.0).search(question, 1)
    by_words = open_retriever(index, embedder, tmp_path / "tables", bm25_weight=1.0, candidates=4)
    assert by_vector[0].chunk.source == "zzz.txt"
    assert "lilies.txt" in [hit.chunk.source for hit in by_words.search(question, 2)]
    passages = PassageIndex(index, tmp_path / "tables", SETTINGS)
    assert [passages.chunks[index].source for index in passages.by_keywords("guarantee", 3)] == ["lilies.txt"]


def test_a_chunk_is_found_by_the_questions_that_it_answers_and_is_returned_once(
    index: Path, embedder: Embedder, tmp_path: Path
) -> None:
    chunks = read_index(index).chunks
    lilies = next(index for index, chunk in enumerate(chunks) if chunk.source == "lilies.txt")
    expansions = [(question, (lilies,)) for question in ("qqq qq", "qqq qqq", "qqqq", "xylophone")]
    build_index(chunks, embedder, 80, tmp_path / "expanded", expansions)
    first, second = open_retriever(tmp_path / "expanded", embedder, tmp_path / "tables").search("qqqq", 2)
    assert first.chunk.source == "lilies.txt"
    assert first.cosine == pytest.approx(1, abs=1e-5)
    assert second.chunk.source != "lilies.txt"
    passages = PassageIndex(tmp_path / "expanded", tmp_path / "tables", SETTINGS)
    assert passages.by_keywords("qqq guaranteed xylophone", 4) == [lilies]
    assert sorted(passages.by_vector(embedder.embed(embedder.encode(["roses"]))[0], 9)) == [0, 1, 2, 3]


def test_nearness_is_of_the_text_and_of_the_nearest_questions() -> None:
    rows = pa.table(
        {
            "row": [3, 0, 1, 2, 4],
            "place": [1, 0, 1, 1, 1],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array([0.6, 1.0, 0.2, 0.8, 0.1], pa.float32()), 1),
        }
    )
    settings = SETTINGS.model_copy(update={"min_similarity": 1.1, "min_expansion_similarity": 0.8})
    result = VectorIndex(rows, 2, settings).similarity_to(np.ones(1, dtype=np.float32))
    assert result.similarity == pytest.approx([1.0, 0.4 * 0.2 + 0.6 * (0.8 + 0.6) / 2])
    assert result.cosines == pytest.approx([1.0, 0.8])
    assert (result.order(2), result.is_relevant) == ([0, 1], True)
    higher = settings.model_copy(update={"min_expansion_similarity": 0.81})
    assert not VectorIndex(rows, 2, higher).similarity_to(np.ones(1, dtype=np.float32)).is_relevant


def test_under_the_floor_nothing_is_found(index: Path, embedder: Embedder, tmp_path: Path) -> None:
    vector = embedder.embed(embedder.encode(["qqq"]))[0]
    passages = PassageIndex(index, tmp_path / "tables", SETTINGS)
    nearest = max(hit.cosine for hit in passages.find("qqq", vector, 4))
    above, below = (SETTINGS.model_copy(update={"min_similarity": nearest + step}) for step in (0.001, -0.001))
    assert PassageIndex(index, tmp_path / "tables", above).find("qqq", vector, 4) == ()
    assert len(PassageIndex(index, tmp_path / "tables", below).find("qqq", vector, 2)) == 2


@pytest.mark.parametrize("question", ["", "???", '"a" AND (b OR -c) title:x ~ ^ * \\', "the of", "日本", "a\nb\0"])
def test_a_question_is_text_whatever_stands_in_it(
    index: Path, embedder: Embedder, tmp_path: Path, question: str
) -> None:
    vector = embedder.embed(embedder.encode(["roses"]))[0]
    assert PassageIndex(index, tmp_path / "tables", SETTINGS).find(question, vector, 2)


def test_the_table_is_kept_and_made_anew_for_another_index(index: Path, embedder: Embedder, tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    before = PassageIndex(index, tables, SETTINGS)
    files = {path: path.stat().st_mtime_ns for path in tables.rglob("*")}
    PassageIndex(index, tables, SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in tables.rglob("*")} == files
    write(tmp_path / "knowledge", {"moss": "Rake it out."})
    index_folder(tmp_path / "knowledge", embedder, 80, index)
    after = PassageIndex(index, tables, SETTINGS)
    assert sorted(path.name for path in tables.iterdir()) == sorted({before.digest, after.digest})
    assert [len(passages.by_keywords("rake", 5)) for passages in (before, after)] == [0, 1]


def test_tables_made_and_searched_at_the_same_time_agree(index: Path, tmp_path: Path) -> None:
    vector = np.eye(8, dtype=np.float32)[0]
    shared = PassageIndex(index, tmp_path / "elsewhere", SETTINGS)
    found: list[object] = []

    def search() -> None:
        own = PassageIndex(index, tmp_path / "tables", SETTINGS)
        found.extend(passages.find("roses", vector, 3) for passages in (shared, own))

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(hits == found[0] for hits in found)
    assert len(list((tmp_path / "tables").iterdir())) == 1


def test_lancedb_is_imported_only_when_a_table_is_opened() -> None:
    code = "import sys, tasks.retrieval.search; sys.exit('lancedb' in sys.modules or 'pypdf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_another_retrieval_model_is_refused(
    index: Path, embedder: Embedder, tiny_embedding: Path, tmp_path: Path
) -> None:
    other = make_embedder(tiny_embedding, tmp_path / "other", name="other")
    with pytest.raises(GraftError, match="run the stage `index` again"):
        open_retriever(index, other, tmp_path / "tables")
    with pytest.raises(TextTooLongError):
        open_retriever(index, embedder, tmp_path / "tables").search("x" * 81, 1)


def test_without_documents_nothing_is_found(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    info = index_folder(tmp_path / "none", embedder, 80, tmp_path / "empty")
    assert (info.chunks, info.asked) == (0, 0)
    assert open_retriever(tmp_path / "empty", embedder, tmp_path / "tables").search("roses", 3) == ()
