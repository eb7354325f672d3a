"""Which passage a sentence of an answer used: told from the words and figures that they share.

A small model cannot be relied on to name its sources, so it is not asked to. A figure counts as two
words, as it is copied and not chosen; words of the question count for nothing.
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
"""Letters by which two words count as the same."""
_ENOUGH = 3
_COMMON = re.compile(
    r"about|after|also|been|before|does|from|have|here|into|just|more|only|other|over|some|such|than|that"
    r"|their|them|then|there|these|they|this|those|what|when|where|which|will|with|your"
)


def cite(answer: str, question: str, passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """The passage that each sentence of `answer` used, where there is one."""
    asked = _terms(question)
    terms = [_terms(passage.embedded) for passage in passages]
    citations: list[Citation] = []
    for sentence in _SENTENCE.finditer(answer):
        said = _terms(sentence[0]) - asked
        shared = [sum(2 if term[0].isdigit() else 1 for term in said & known) for known in terms]
        if shared and (most := max(shared)) >= _ENOUGH:
            used = passages[shared.index(most)]
            citations.append(Citation(chunk=used.id, title=used.path, start=sentence.start(), end=sentence.end()))
    return tuple(citations)


def _terms(text: str) -> set[str]:
    low = text.lower()
    words = {word[:_STEM] for word in _WORD.findall(low) if not _COMMON.fullmatch(word)}
    return words | set(_FIGURE.findall(low))
