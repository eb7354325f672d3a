"""Answers for questions that are put in other words: off unless `serve.yaml` says otherwise.

Two questions near each other by their embeddings may still want different answers: another order
number, another quantity, a "not". So a question counts as asked before only if everything that its
answer depends on besides its wording is identical (`Question.context`), the cosine of the two
embeddings reaches the threshold, and both name the same numbers and identifiers in the same order
and negate equally often. `benchmarks/semantic_cache.py` measures how often that is wrong.
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
    """What two questions must agree in to have one answer, as far as it can be read off English words.

    `names` are numbers and identifiers, in their order: `HL-20931` and `hl20931` are one, `two` and
    `2` too. `negations` counts words such as "not", "without", "don't".
    """

    names: tuple[str, ...]
    negations: int


def question_facts(text: str) -> QuestionFacts:
    """Read a question's facts."""
    words = _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    named = (_NUMBERS.get(word, word) for word in words)
    names = tuple(re.sub(r"[-_/]", "", name) for name in named if any(c.isdigit() for c in name))
    return QuestionFacts(names, sum(bool(_NEGATION.fullmatch(word)) for word in words))


@dataclass(frozen=True, eq=False)
class Question:
    """A question with all that its answer depends on.

    `context` is everything but the wording of the last user turn; `vector` is float32 [d], of length 1.
    """

    context: Hashable
    facts: QuestionFacts
    vector: Vectors


class SemanticIndex(Generic[K]):
    """The last `entries` questions, each with the key of its answer. It belongs to one event loop.

    A key may outlive its answer: who looks it up has to see.

    Args:
        embed: see `Embedder`.
        threshold: least cosine.
        entries: more than these push out the oldest; each costs one vector.
    """

    def __init__(self, embed: Embedder, threshold: float, entries: int) -> None:
        self._embed = embed
        self._threshold = threshold
        self._entries = entries
        self._vectors: Vectors | None = None
        self._known: list[tuple[Question, K]] = []
        self._next = 0

    async def question(self, context: Hashable, text: str) -> Question:
        """Embed a question.

        Raises:
            Exception: whatever the embedder raises.
        """
        return Question(context, question_facts(text), (await self._embed([text]))[0])

    def nearest(self, question: Question) -> Iterator[K]:
        """The keys of those that ask the same, nearest first."""
        if self._vectors is None:
            return
        cosines = self._vectors[: len(self._known)] @ question.vector
        for place in np.argsort(-cosines, kind="stable"):
            if cosines[place] < self._threshold:
                return
            known, key = self._known[place]
            if known.context == question.context and known.facts == question.facts:
                yield key

    def add(self, question: Question, key: K) -> None:
        """Remember a question that has been answered."""
        if self._vectors is None:
            self._vectors = np.zeros((self._entries, len(question.vector)), np.float32)
        self._vectors[self._next] = question.vector
        self._known[self._next : self._next + 1] = [(question, key)]
        self._next = (self._next + 1) % self._entries
