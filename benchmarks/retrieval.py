"""What each way to search finds, and where the floor should be, on the project's own questions.

    python -m benchmarks.retrieval

Vectors alone, words alone and both joined answer the questions of `data/retrieval/eval_queries.jsonl`, with the
floor off. Then, for some floors, the share of questions with an answer that would be told that there
is none, and of off-topic ones that would be told so, as they should. Settings are chosen on the
split `tune`; `eval` is what may be told. The last line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.errors import run_main
from tasks.core.paths import BUILT_EMBEDDING, BUILT_INDEX, EVAL_QUERIES
from tasks.core.settings import load_settings
from tasks.evaluation.retrieval_metrics import EvalQuery, read_eval_queries, score
from tasks.retrieval.chunks import Passage
from tasks.retrieval.embedder import Embedder
from tasks.retrieval.search import PassageIndex, Retriever

FLOORS = (0.30, 0.35, 0.38, 0.40, 0.42, 0.45, 0.50)
_MANY = 20  # chunks, among which the nearest is
Search = Callable[[str, int], Sequence[Passage]]


def searches(passages: PassageIndex, embedder: Embedder) -> dict[str, Search]:
    """The ways to search a table, by name: each takes a question and k."""
    retriever = Retriever(passages, embedder)

    def vectors(question: str, k: int) -> list[Passage]:
        near = passages.by_vector(embedder.embed(embedder.encode([question]))[0], k)
        return [passages.chunks[place] for place in near]

    def words(question: str, k: int) -> list[Passage]:
        return [passages.chunks[place] for place in passages.by_keywords(question, k)]

    def joined(question: str, k: int) -> list[Passage]:
        return [hit.chunk for hit in retriever.search(question, k)]

    return {"vectors": vectors, "words": words, "joined": joined}


def floors(questions: Sequence[EvalQuery], nearest: Sequence[float]) -> list[dict[str, float]]:
    """For each floor, of questions with these nearest cosines: the shares told that nothing was found."""
    answerable = np.array([c for q, c in zip(questions, nearest, strict=True) if q.article is not None])
    off_topic = np.array([c for q, c in zip(questions, nearest, strict=True) if q.article is None])
    return [
        {
            "floor": floor,
            "answerable_refused": round(float((answerable < floor).mean()), 3),
            "off_topic_refused": round(float((off_topic < floor).mean()), 3),
        }
        for floor in FLOORS
    ]


def parts(questions: Sequence[EvalQuery], passages: PassageIndex, embedder: Embedder) -> dict[str, float]:
    """The median milliseconds of a question's vector and of finding with it."""
    spent: dict[str, list[float]] = {"embed": [], "find": []}
    for question in questions:
        began = time.perf_counter()
        vector = embedder.embed(embedder.encode([question.question]))[0]
        embedded = time.perf_counter()
        passages.find(question.question, vector, 5)
        spent["embed"].append(embedded - began)
        spent["find"].append(time.perf_counter() - embedded)
    return {f"{part}_ms": round(statistics.median(seconds) * 1000, 2) for part, seconds in spent.items()}


def measure(questions: Sequence[EvalQuery], passages: PassageIndex, embedder: Embedder) -> dict[str, Any]:
    """Each way's recall, MRR and milliseconds a search on some questions, and what the floors would do."""
    cutoffs = load_settings().evaluate_retrieval.cutoffs
    found: dict[str, Any] = {}
    for way, search in searches(passages, embedder).items():
        began = time.perf_counter()
        asked = [(question, search(question.question, max(cutoffs))) for question in questions]
        ms = (time.perf_counter() - began) / len(questions) * 1000
        scores = score(asked, cutoffs).model_dump(include={"recall", "article_recall", "mrr"})
        found[way] = {**scores, "ms": round(ms, 1)}
    retriever = Retriever(passages, embedder)
    found_any = [retriever.search(question.question, _MANY) for question in questions]
    found["floors"] = floors(questions, [max(hit.cosine for hit in hits) for hits in found_any])
    found["parts"] = parts(questions, passages, embedder)
    return found


def main() -> None:
    """Print each split's figures, then all as one JSON object."""
    off = load_settings().retrieval.model_copy(update={"min_similarity": -1.0, "min_expansion_similarity": -1.0})
    embedder = Embedder(BUILT_EMBEDDING, threads=1)
    found = {}
    with tempfile.TemporaryDirectory(prefix="graft-retrieval-") as tables:
        passages = PassageIndex(BUILT_INDEX, Path(tables), off)
        questions = read_eval_queries(EVAL_QUERIES, passages.chunks)
        for split in ("tune", "eval"):
            found[split] = measure([q for q in questions if q.split == split], passages, embedder)
            for name, figures in found[split].items():
                for row in figures if isinstance(figures, list) else [figures]:
                    print(split, name, json.dumps(row), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    run_main(main)
