"""Matching of item names as customers write them: "iceberg roses" is the item "rose iceberg"."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ENDINGS = (("ies", "y"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("oes", "o"), ("s", ""))
_KEPT = ("ss", "us", "is")


def find_name(wanted: str, names: Iterable[str]) -> str | None:
    """The name whose words include those of `wanted`, or are included; None if there is none, or no single best.

    The exact name wins, then the one that differs in the fewest words. Case, order, plural and
    punctuation do not count.
    """
    words = _words(wanted)
    found: list[tuple[int, str]] = []
    for name in names:
        if name == wanted:
            return name
        own = _words(name)
        if words and own and (words <= own or own <= words):
            found.append((len(words ^ own), name))
    found.sort()
    unclear = len(found) > 1 and found[0][0] == found[1][0]
    return None if unclear or not found else found[0][1]


def _words(text: str) -> frozenset[str]:
    return frozenset(_singular(word) for word in re.findall(r"[a-z0-9]+", text.lower().replace("'s", "")))


def _singular(word: str) -> str:
    if len(word) < 4 or word.endswith(_KEPT):
        return word
    for plural, singular in _ENDINGS:
        if word.endswith(plural):
            return word.removesuffix(plural) + singular
    return word
