"""Chunking: passages fit with their headings, lose no word, keep small sections whole, and have stable ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.core.paths import KNOWLEDGE
from tasks.retrieval.chunks import Passage, chunk_folder, chunk_sections, split_text
from tasks.retrieval.documents import DocumentSection, document_files, read_document
from tests.conftest import ROOT


def words(text: str) -> int:
    return len(text.split())


def test_a_text_is_cut_at_the_best_place_there_is() -> None:
    text = "One two. Three four five.\n\nSix seven eight\nnine ten.\n\nEleven."
    assert split_text(text, lambda t: words(t) <= 11) == [text]
    assert split_text(text, lambda t: words(t) <= 6) == [
        "One two. Three four five.",
        "Six seven eight\nnine ten.\n\nEleven.",
    ]
    assert split_text(text, lambda t: words(t) <= 3) == [
        "One two.",
        "Three four five.",
        "Six seven eight",
        "nine ten.\n\nEleven.",
    ]
    assert split_text(text, lambda t: words(t) <= 1) == text.split()


def test_a_word_that_does_not_fit_is_refused_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "long.md").write_text("# Codes\n\nok " + "x" * 99, encoding="utf-8")
    with pytest.raises(GraftError, match=r"long.md: the word 'xxxx.*\(99 characters\).* index.max_tokens .* is 30"):
        chunk_folder(tmp_path, len, 30)


def test_headings_count_and_ids_are_made_from_file_and_heading() -> None:
    sections = [
        DocumentSection(("A & B", "C d"), "1 2 3. 4 5 6."),
        DocumentSection(("A & B", "C d"), "7"),
        DocumentSection((), "8"),
    ]
    chunks = chunk_sections("x.md", sections, words, max_tokens=9)
    assert [(chunk.id, chunk.text) for chunk in chunks] == [
        ("x.md#c-d", "1 2 3."),
        ("x.md#c-d/2", "4 5 6."),
        ("x.md#c-d/3", "7"),
        ("x.md#", "8"),
    ]
    assert chunks[0].path == "A & B > C d"
    assert [chunk.embedded for chunk in chunks[2:]] == ["A & B > C d\n7", "8"]


@pytest.mark.parametrize("max_tokens", [90, 200, 400, 4000])
def test_the_knowledge_is_cut_without_loss_and_within_the_limit(max_tokens: int) -> None:
    folder = ROOT / KNOWLEDGE
    chunks = chunk_folder(folder, len, max_tokens)
    assert max(len(chunk.embedded) for chunk in chunks) <= max_tokens
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    sections = [section for path in document_files(folder) for section in read_document(path)]
    document_words = [word for section in sections for word in section.text.split()]
    assert [word for chunk in chunks for word in chunk.text.split()] == document_words
    if max_tokens == 4000:
        assert [(chunk.headings, chunk.text) for chunk in chunks] == [(s.headings, s.text) for s in sections]


def test_a_chunk_outlives_json() -> None:
    chunk = Passage(id="a.md#b", source="a.md", headings=("A", "B"), text="line\u2028two\nthree")
    assert Passage.model_validate_json(chunk.model_dump_json()) == chunk
