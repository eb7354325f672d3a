"""Citations: the passage that each sentence of an answer used, by the words and numbers that they share.

A small model does not name its sources reliably, so it is not asked to. A number counts as two
words, as it is copied and not chosen; words of the question do not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deployments.core.messages import Citation
from tasks.retrieval.chunks import Passage

_SENTENCE = re.compile(r"\S.*?(?:[.!?…](?=\s|$)|$)", re.DOTALL)
_FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
_WORD = re.compile(r"[a-z]{4,}")
_STEM = 6
"""Two words count as the same if they agree in so many first letters."""
_ENOUGH = 3
"""The least overlap of a sentence and the passage that it used."""
_COMMON = re.compile(
    r"about|after|also|been|before|does|from|have|here|into|just|more|only|other|over|some|such|than|that"
    r"|their|them|then|there|these|they|this|those|what|when|where|which|will|with|your"
)


def cite(answer: str, question: str, passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """The passage that each sentence of `answer` used, where there is one."""
    question_terms = _terms(question)
    passage_terms = [_terms(passage.embedded) for passage in passages]
    citations: list[Citation] = []
    for sentence in _SENTENCE.finditer(answer):
        terms = _terms(sentence[0]) - question_terms
        overlaps = [sum(2 if term[0].isdigit() else 1 for term in terms & other) for other in passage_terms]
        if overlaps and (most := max(overlaps)) >= _ENOUGH:
            used = passages[overlaps.index(most)]
            citations.append(Citation(chunk=used.id, title=used.path, start=sentence.start(), end=sentence.end()))
    return tuple(citations)


def _terms(text: str) -> set[str]:
    low = text.lower()
    words = {word[:_STEM] for word in _WORD.findall(low) if not _COMMON.fullmatch(word)}
    return words | set(_FIGURE.findall(low))
