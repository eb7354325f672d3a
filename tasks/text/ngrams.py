"""What a text looks like to a linear classifier: its words, pairs of words, and pieces of words.

Training and serving count the same pieces with this one function, in plain Python, so that a
process that only serves needs no scikit-learn. No weights here: `tasks/safety/injection_classifier.py` has them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

PIECES = range(3, 6)
"""Lengths of the pieces of a word, in characters, the spaces around it counted."""
MAX_WORD = 40
"""Characters of a word beyond which it is cut into several: base64 and the like come without spaces."""

_WORD = re.compile(r"\w+")
_INVISIBLE = {"Cf", "Mn", "Cc"}


def plain(text: str) -> str:
    """The text in one case and Unicode form, every digit a 0, without characters that nobody sees.

    Which order is meant says nothing about an attack, and zero-width characters only hide one.
    """
    spaced = " ".join(unicodedata.normalize("NFKC", text).split())
    seen = "".join(c for c in spaced if c.isascii() or unicodedata.category(c) not in _INVISIBLE)
    return re.sub(r"\d", "0", seen.casefold())


def count_ngrams(text: str) -> Counter[str]:
    """How often each piece is in `text`; a word or a pair of words is prefixed by `=`."""
    text = plain(text)
    words = _WORD.findall(text)
    counts = Counter(f"={word}" for word in words)
    counts.update(f"={one} {two}" for one, two in pairwise(words))
    counts.update(_pieces(text))
    return counts


def _pieces(text: str) -> Iterator[str]:
    for word in text.split():
        for part in (word[i : i + MAX_WORD] for i in range(0, len(word), MAX_WORD)):
            padded = f" {part} "
            for length in PIECES:
                for start in range(max(1, len(padded) - length + 1)):
                    yield padded[start : start + length]


def windows(text: str, words: int) -> Iterator[str]:
    """The text in stretches of at most `words` words, each of which overlaps the one before by half.

    A short attack in a long text would be averaged away if the text were looked at as a whole.
    """
    found = text.split()
    step = max(1, words // 2)
    for start in range(0, max(1, len(found) - words + step), step):
        yield " ".join(found[start : start + words])
