"""Benchmark of the semantic cache: the rate of wrong answers, on the questions with answers in the project's data.

Every first question of `data/raw` is looked up in an index that contains all others, as if each had
been asked and answered before. A hit is false if the two rows' right answers differ: another tool
call, or another text. Two texts may differ and still both be right, so the false hits that are
certainly wrong are also counted separately: a tool call differs, or the texts disagree in numbers,
identifiers or negation.

The rows are deduplicated, so few are near each other. In real traffic, near questions are often the same
question about another item. So each question is also looked up in a changed form, which must not
get the answer of the original:

    other number   the argument of its right tool call is exchanged for another row's, with digits
    other name     the same, without digits: one plant for another
    negated        a "not" after the first auxiliary verb

and once as a user in a hurry would type it, lower case and no punctuation (`respelled`), which
should get that answer: this is the purpose of the cache.

    python -m benchmarks.semantic_cache

The last line is one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from deployments.app.cache.semantic_index import Question, QuestionFacts, SemanticIndex, question_facts
from deployments.core.messages import Embedder, Vectors
from tasks.core.paths import BUILT_EMBEDDING, RAW
from tasks.core.records import ChatRow, Message
from tasks.retrieval import embedder

THRESHOLDS = (0.80, 0.90, 0.95, 0.98)
_NO_FACTS = QuestionFacts((), 0)
_AUXILIARY = re.compile(
    r"\b(is|are|was|were|has|have|had|can|could|do|does|did|will|would|should|may|must)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Case:
    """A question and its right answer."""

    question: str
    """The user's first message."""
    answer: Message
    """The reference answer."""


@dataclass(frozen=True)
class Rates:
    """The rates at one threshold, all in [0, 1]."""

    threshold: float
    """Minimum cosine similarity of a hit."""
    rules: bool
    """Whether the facts of the two questions must agree."""
    hits: float
    """Fraction of all questions with a hit."""
    false: float
    """Fraction of all questions with a false hit."""
    certainly_false: float
    """Fraction of all questions with a certainly wrong hit."""
    other_number: float
    """Fraction of the questions changed in this way that got the answer to the original."""
    other_name: float
    """The same for this change."""
    negated: float
    """The same for this change."""
    respelled: float
    """The same for this change."""


def read_cases(folder: Path = RAW) -> list[Case]:
    """The first question of every row, with its reference answer."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    conversations = [ChatRow.model_validate_json(line).messages for line in lines]
    return [Case(first.content, second) for first, second, *_ in conversations if first.role == "user"]


def same(one: Message, other: Message) -> bool:
    """Whether two answers are the same."""
    return _plain(one) == _plain(other)


def contradict(one: Message, other: Message) -> bool:
    """Whether two answers can't both be right: their tool calls or the facts in their texts differ."""
    return _plain(one)[1] != _plain(other)[1] or question_facts(one.content) != question_facts(other.content)


def _plain(message: Message) -> tuple[str, list[tuple[str, str]]]:
    calls = [(call.name, json.dumps(call.arguments, sort_keys=True).lower()) for call in message.tool_calls]
    return message.content.strip().lower(), calls


def exchange(cases: Sequence[Case]) -> dict[int, str]:
    """Questions, by their index, with another row's argument instead of that of their own tool call."""
    values: dict[tuple[str, str], list[str]] = {}
    arguments = []
    for number, case in enumerate(cases):
        for call in case.answer.tool_calls:
            for name, value in call.arguments.items():
                if isinstance(value, str) and value and value.lower() in case.question.lower():
                    values.setdefault((call.name, name), []).append(value)
                    arguments.append((number, (call.name, name), value))
    changed = {}
    for number, kind, value in arguments:
        others = values[kind]
        other = others[(others.index(value) + 1) % len(others)]
        if other.lower() != value.lower():
            changed[number] = _replace(cases[number].question, value, other)
    return changed


def _replace(text: str, value: str, other: str) -> str:
    return re.sub(re.escape(value), lambda _: other, text, flags=re.IGNORECASE)


def negate(text: str) -> str:
    """The text with a "not" after the first auxiliary verb; unchanged if there is none."""
    return _AUXILIARY.sub(r"\1 not", text, count=1)


def respell(text: str) -> str:
    """The text as a user in a hurry would type it."""
    return re.sub(r"[^\w\s'-]", "", text.lower())


def changes(cases: Sequence[Case]) -> dict[str, dict[int, str]]:
    """The changed questions by kind of change and index of the original."""
    exchanged = exchange(cases)
    numbers = {n: text for n, text in exchanged.items() if question_facts(text) != question_facts(cases[n].question)}
    texts = {n: case.question for n, case in enumerate(cases)}
    return {
        "other_number": numbers,
        "other_name": {n: text for n, text in exchanged.items() if n not in numbers},
        "negated": {n: changed for n, text in texts.items() if (changed := negate(text)) != text},
        "respelled": {n: changed for n, text in texts.items() if (changed := respell(text)) != text},
    }


async def measure(cases: Sequence[Case], embed: Embedder, threshold: float, rules: bool) -> Rates:
    """Look every question up among the others, and every changed one among all.

    Args:
        cases: questions and answers.
        embed: embedding model.
        threshold: minimum cosine similarity of a hit.
        rules: whether the facts of the two questions must agree.
    """
    index = SemanticIndex[int](embed, threshold, len(cases))

    async def ask(text: str) -> Question:
        question = await index.question("", text)
        return question if rules else replace(question, facts=_NO_FACTS)

    questions = [await ask(case.question) for case in cases]
    for number, question in enumerate(questions):
        index.add(question, number)
    pairs = [(n, next((o for o in index.nearest(q) if o != n), None)) for n, q in enumerate(questions)]
    hits = [(cases[n].answer, cases[other].answer) for n, other in pairs if other is not None]
    wrong = [pair for pair in hits if not same(*pair)]
    rates = [len(some) / len(cases) for some in (hits, wrong, [pair for pair in wrong if contradict(*pair)])]
    for changed in changes(cases).values():
        answered = [next(index.nearest(await ask(text)), None) == number for number, text in changed.items()]
        rates.append(sum(answered) / max(1, len(answered)))
    return Rates(threshold, rules, *rates)


def open_embedder(folder: Path) -> Embedder:
    """The embedding model that is served, one text at a time; it caches its vectors."""
    model = embedder.Embedder(folder, threads=1)
    known: dict[str, Vectors] = {}

    async def embed(texts: Sequence[str]) -> Vectors:
        for text in texts:
            if text not in known:
                known[text] = model.embed(model.encode([text]))[0]
        return np.stack([known[text] for text in texts])

    return embed


def main() -> None:
    """Print a table, and one JSON object."""
    cases, embed = read_cases(), open_embedder(BUILT_EMBEDDING)
    changed = {name: len(texts) for name, texts in changes(cases).items()}
    print(f"{len(cases)} questions; changed: {changed}\n")
    names = [field.name for field in fields(Rates)]
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    results: list[dict[str, Any]] = []
    for threshold, rules in product(THRESHOLDS, (False, True)):
        rates = asdict(asyncio.run(measure(cases, embed, threshold, rules)))
        results.append(rates)
        print(f"| {' | '.join(f'{value:.3g}' for value in rates.values())} |", flush=True)
    print(json.dumps({"questions": len(cases), "changed": changed, "rates": results}))


if __name__ == "__main__":
    main()
