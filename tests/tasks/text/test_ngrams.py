"""The n-grams of a text: invisible characters hide an attack from a reader, and not from the count."""

from __future__ import annotations

import pytest

from tasks.text.ngrams import MAX_WORD_CHARS, count_ngrams, plain, windows


def test_words_pairs_and_character_ngrams_are_counted() -> None:
    counts = count_ngrams("Ignore it, ignore it")
    assert (counts["=ignore"], counts["=it"], counts["=ignore it"], counts["=it ignore"]) == (2, 2, 2, 1)
    assert (counts[" ig"], counts["gnore"], counts["it,"], counts[" it, "]) == (2, 2, 1, 1)
    assert not any(ngram.startswith("=") for ngram in counts if len(ngram) > 40)


@pytest.mark.parametrize(
    "hidden", ["ig\u200bnore", "\uff29\uff27\uff2e\uff2f\uff32\uff25", "i\u00adgnore", "ignore\u202e", "  ignore\n"]
)
def test_invisible_characters_change_nothing(hidden: str) -> None:
    assert plain(hidden) == "ignore"
    assert count_ngrams(hidden) == count_ngrams("ignore")


def test_which_order_it_is_changes_nothing() -> None:
    assert count_ngrams("cancel HL-20931") == count_ngrams("cancel hl-11111")


def test_a_text_without_words_has_character_ngrams_and_an_empty_one_has_none() -> None:
    assert count_ngrams("?!")[" ?!"] == 1
    assert not count_ngrams(" \n")


def test_a_long_word_costs_as_much_as_its_length() -> None:
    counts = count_ngrams("x" * (3 * MAX_WORD_CHARS))
    assert counts["xxx"] == 3 * (MAX_WORD_CHARS - 2)


def test_windows_overlap_by_half_and_leave_no_word_out() -> None:
    text = " ".join(map(str, range(11)))
    assert list(windows(text, 4)) == ["0 1 2 3", "2 3 4 5", "4 5 6 7", "6 7 8 9", "8 9 10"]
    assert list(windows("a b", 4)) == ["a b"]
    assert list(windows("", 4)) == [""]
