"""Exact and near duplicates among conversations, by a fingerprint and by MinHash with Jaccard similarity.

Two conversations are exact duplicates when their turns are equal but for case and spacing. They are
near-duplicates when the 3-word shingles of their turns overlap (Jaccard) by the threshold or more, or
when their user turns consist of the same words. System turns are excluded, because rows share them by design.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.core.records import Message

PERMUTATIONS = 128
WEIGHTS = (0.1, 0.9)
"""Weights of false positives and of false negatives in the LSH. A false positive costs only one comparison, because
every proposed pair is verified."""
MAX_LSH_THRESHOLD = 0.9
"""The highest Jaccard threshold that the LSH is set to; it has no setting for 1.0."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Duplicates:
    """The duplicates among rows; each field has one value per row."""

    exact: tuple[int | None, ...]
    """The index of the first row that the row repeats exactly, or None."""
    near: tuple[int | None, ...]
    """The index of an earlier row that the row nearly repeats, or None; None for exact duplicates too."""
    cluster: tuple[int, ...]
    """The index of the first row of the row's cluster of duplicates."""


def normalize(text: str) -> str:
    """The text in one case, one spacing and one Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Role and normalized text of each turn but the system's; a tool call adds the values of its arguments."""
    turns: list[tuple[str, str]] = []
    for message in messages:
        values = [str(value) for call in message.tool_calls for value in call.arguments.values()]
        if message.role != "system":
            turns.append((message.role, normalize(" ".join([message.content, *values]))))
    return turns


def fingerprint(messages: Sequence[Message]) -> str:
    """sha256 in hexadecimal that two conversations share only if they are exact duplicates."""
    names = [[call.name for call in message.tool_calls] for message in messages if message.role != "system"]
    return hashlib.sha256(json.dumps([_turns(messages), names]).encode()).hexdigest()


def shingles(messages: Sequence[Message]) -> frozenset[str]:
    """Every run of 3 words within a turn; a shorter turn is one shingle."""
    result: set[str] = set()
    for _, text in _turns(messages):
        words = _WORD.findall(text) or text.split()
        result.update(" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2)) if words)
    return frozenset(result)


def question(messages: Sequence[Message]) -> str:
    """The words of the user turns alone."""
    return "\n".join(" ".join(_WORD.findall(text) or [text]) for role, text in _turns(messages) if role == "user")


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity of two sets, 0 to 1; it is 0 for two empty sets."""
    union_size = len(one | other)
    return len(one & other) / union_size if union_size else 0.0


class Clusters:
    """Union-find over `size` items; a cluster is named by its first item."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        """The first item of the cluster that `item` is in."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, one: int, other: int) -> None:
        """Make two clusters one."""
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first


def _firsts(keys: Sequence[str]) -> list[int | None]:
    """For each key the index of its first appearance, or None at the first appearance itself."""
    seen: dict[str, int] = {}
    return [None if (first := seen.setdefault(key, i)) == i else first for i, key in enumerate(keys)]


def find_duplicates(rows: Sequence[Sequence[Message]], threshold: float) -> Duplicates:
    """Exact and near duplicates among `rows`, in rows' order.

    Time is linear in the rows unless many of them are near each other: locality-sensitive hashing
    (MinHash) proposes pairs, and the exact Jaccard similarity decides.
    """
    exact = _firsts([fingerprint(row) for row in rows])
    near = [None if e is not None else q for e, q in zip(exact, _firsts([question(r) for r in rows]), strict=True)]
    clusters = Clusters(len(rows))
    for index, earlier in enumerate(zip(exact, near, strict=True)):
        for other in earlier:
            if other is not None:
                clusters.join(other, index)
    _join_similar(rows, threshold, exact, near, clusters)
    return Duplicates(tuple(exact), tuple(near), tuple(clusters.find(i) for i in range(len(rows))))


def _join_similar(
    rows: Sequence[Sequence[Message]],
    threshold: float,
    exact: Sequence[int | None],
    near: list[int | None],
    clusters: Clusters,
) -> None:
    """Record in `near` and `clusters` each row that is similar to an earlier row.

    Args:
        rows: the conversations.
        threshold: the lowest Jaccard similarity of near-duplicates, 0 to 1.
        exact: for each row the index of the row that it repeats exactly; such rows are skipped.
        near: for each row the index of a near-duplicate before it; filled in place.
        clusters: the clusters of duplicates; joined in place.
    """
    from datasketch import MinHash, MinHashLSH

    index_of_set: dict[frozenset[str], int] = {}
    lsh = MinHashLSH(min(threshold, MAX_LSH_THRESHOLD), PERMUTATIONS, weights=WEIGHTS)
    blank = MinHash(PERMUTATIONS)
    sets: dict[int, frozenset[str]] = {}
    for index, row in enumerate(rows):
        if exact[index] is not None:
            continue
        row_shingles = shingles(row)
        similar = [index_of_set[row_shingles]] if row_shingles in index_of_set else []
        if not similar:
            hashes = blank.copy()
            hashes.update_batch([shingle.encode() for shingle in row_shingles])
            for other in sorted(lsh.query(hashes)):
                # A pair in one cluster needs no comparison, except to find this row's first near-duplicate.
                has_near = near[index] is not None or bool(similar)
                if has_near and clusters.find(other) == clusters.find(index):
                    continue
                if jaccard(row_shingles, sets[other]) >= threshold:
                    similar.append(other)
                    clusters.join(other, index)
            lsh.insert(index, hashes, check_duplication=False)
            index_of_set[row_shingles], sets[index] = index, row_shingles
        for other in similar:
            clusters.join(other, index)
            near[index] = other if near[index] is None else near[index]
