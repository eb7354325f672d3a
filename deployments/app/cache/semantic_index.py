"""Semantic cache index: finds the answers of paraphrased questions by their embeddings. `serve.yaml` turns it on.

Two questions near each other by their embeddings may still need different answers: another order
number, another quantity, a "not". So a question matches an earlier one only if everything that its
answer depends on besides its wording is identical (`Question.context`), the cosine of the two
embeddings reaches the threshold, and both name the same numbers and identifiers in the same order
and contain the same number of negations. `benchmarks/semantic_cache.py` measures how often that is
wrong.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from deployments.core.messages import Embedder, Vectors

K = TypeVar("K", bound=Hashable)

_WORD = re.compile(r"\w+(?:['.,:/-]\w+)*")
_COUNTED = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_MORE = {"half": "0.5", "dozen": "12", "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100"}
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED)} | _MORE
_NEGATION = re.compile(
    r"no|not|none|never|nobody|nothing|neither|nor|nowhere|without|cannot|\w+n't"
    r"|(?:ai|are|ca|could|did|do|does|had|has|have|is|must|need|should|was|were|wo|would)nt"
)


@dataclass(frozen=True)
class QuestionFacts:
    """The facts in which two English questions must agree to have one answer."""

    names: tuple[str, ...]
    """Numbers and identifiers, in order, normalized: `HL-20931` equals `hl20931`, and `two` equals `2`."""
    negations: int
    """Number of words such as "not", "without", "don't"."""


def question_facts(text: str) -> QuestionFacts:
    """Extract a question's facts."""
    words = _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    named = (_NUMBERS.get(word, word) for word in words)
    names = tuple(re.sub(r"[-_/]", "", name) for name in named if any(c.isdigit() for c in name))
    return QuestionFacts(names, sum(bool(_NEGATION.fullmatch(word)) for word in words))


@dataclass(frozen=True, eq=False)
class Question:
    """A question with everything that its answer depends on."""

    context: Hashable
    """Everything but the wording of the last user message."""
    facts: QuestionFacts
    """The facts in the last user message."""
    vector: Vectors
    """Its embedding: float32 [d], of length 1."""


class SemanticIndex(Generic[K]):
    """The last `entries` questions, each with the key of its answer. It belongs to one event loop.

    A key may outlive its answer, so callers must handle a key without one.

    Args:
        embed: the retrieval model.
        threshold: the least cosine similarity.
        entries: the capacity, above which the oldest entry is evicted; each costs one vector.
    """

    def __init__(self, embed: Embedder, threshold: float, entries: int) -> None:
        self._embed = embed
        self._threshold = threshold
        self._entries = entries
        self._vectors: Vectors | None = None
        self._stored: list[tuple[Question, K]] = []
        self._next = 0

    async def question(self, context: Hashable, text: str) -> Question:
        """Embed a question.

        Raises:
            Exception: as the embedder raises.
        """
        return Question(context, question_facts(text), (await self._embed([text]))[0])

    def nearest(self, question: Question) -> Iterator[K]:
        """The keys of matching questions, nearest first."""
        if self._vectors is None:
            return
        cosines = self._vectors[: len(self._stored)] @ question.vector
        for index in np.argsort(-cosines, kind="stable"):
            if cosines[index] < self._threshold:
                return
            stored, key = self._stored[index]
            if stored.context == question.context and stored.facts == question.facts:
                yield key

    def add(self, question: Question, key: K) -> None:
        """Store a question whose answer is cached."""
        if self._vectors is None:
            self._vectors = np.zeros((self._entries, len(question.vector)), np.float32)
        self._vectors[self._next] = question.vector
        self._stored[self._next : self._next + 1] = [(question, key)]
        self._next = (self._next + 1) % self._entries
