"""Word and character n-grams of a text: the features of a linear classifier.

The features are words, pairs of words, and character n-grams within words. Training and serving count
them with the same function, in plain Python, so that a process that only serves needs no scikit-learn.
The classifier's weights belong to `tasks/safety/injection_classifier.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

CHAR_NGRAM_LENGTHS = range(3, 6)
"""Lengths of the character n-grams of a word, in characters; the spaces around the word count."""
MAX_WORD_CHARS = 40
"""The longest word, in characters; a longer one is cut into several, because base64 and the like have no spaces."""

_WORD = re.compile(r"\w+")
_INVISIBLE = {"Cf", "Mn", "Cc"}


def plain(text: str) -> str:
    """The text in one case and Unicode form, every digit replaced by 0, without invisible characters.

    The digits of an order number are no evidence of an attack, and zero-width characters only hide one.
    """
    spaced = " ".join(unicodedata.normalize("NFKC", text).split())
    visible = "".join(c for c in spaced if c.isascii() or unicodedata.category(c) not in _INVISIBLE)
    return re.sub(r"\d", "0", visible.casefold())


def count_ngrams(text: str) -> Counter[str]:
    """How often each n-gram occurs in `text`; a word or a pair of words is prefixed by `=`."""
    text = plain(text)
    words = _WORD.findall(text)
    counts = Counter(f"={word}" for word in words)
    counts.update(f"={one} {two}" for one, two in pairwise(words))
    counts.update(_char_ngrams(text))
    return counts


def _char_ngrams(text: str) -> Iterator[str]:
    for word in text.split():
        for part in (word[i : i + MAX_WORD_CHARS] for i in range(0, len(word), MAX_WORD_CHARS)):
            padded = f" {part} "
            for length in CHAR_NGRAM_LENGTHS:
                for start in range(max(1, len(padded) - length + 1)):
                    yield padded[start : start + length]


def windows(text: str, max_words: int) -> Iterator[str]:
    """The text in windows of at most `max_words` words, each of which overlaps the one before by half.

    Over a whole long text, the score of a short attack would be averaged away.
    """
    words = text.split()
    step = max(1, max_words // 2)
    for start in range(0, max(1, len(words) - max_words + step), step):
        yield " ".join(words[start : start + max_words])
