"""Retrieval benchmark: vector, keyword and hybrid search, and minimum similarities, on the project's own queries.

    python -m benchmarks.retrieval

The three search methods answer the queries of `data/retrieval/eval_queries.jsonl`, without a minimum
similarity. Then, for some minimum similarities, it reports the fraction of answerable queries that would find
nothing, and of off-topic ones that would find nothing, as they should. Settings are chosen on the
split `tune`; results are reported on `eval`. The last line is one JSON object.
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
_MANY = 20  # passages of a search, enough to include the nearest one
Search = Callable[[str, int], Sequence[Passage]]


def searches(passages: PassageIndex, embedder: Embedder) -> dict[str, Search]:
    """The search methods by name: vector, keyword and hybrid search; each takes a question and k."""
    retriever = Retriever(passages, embedder)

    def vectors(question: str, k: int) -> list[Passage]:
        near = passages.by_vector(embedder.embed(embedder.encode([question]))[0], k)
        return [passages.chunks[index] for index in near]

    def words(question: str, k: int) -> list[Passage]:
        return [passages.chunks[index] for index in passages.by_keywords(question, k)]

    def joined(question: str, k: int) -> list[Passage]:
        return [hit.chunk for hit in retriever.search(question, k)]

    return {"vectors": vectors, "words": words, "joined": joined}


def floors(questions: Sequence[EvalQuery], nearest: Sequence[float]) -> list[dict[str, float]]:
    """The fractions of answerable and off-topic questions that find nothing, for each minimum similarity.

    Args:
        questions: the queries.
        nearest: cosine of the nearest passage of each query.
    """
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
    """The median milliseconds of a question's embedding and of its search."""
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
    """Recall, MRR and milliseconds per search of each method, and the effect of each minimum similarity."""
    cutoffs = load_settings().evaluate_retrieval.cutoffs
    results: dict[str, Any] = {}
    for method, search in searches(passages, embedder).items():
        began = time.perf_counter()
        found = [(question, search(question.question, max(cutoffs))) for question in questions]
        ms = (time.perf_counter() - began) / len(questions) * 1000
        scores = score(found, cutoffs).model_dump(include={"recall", "article_recall", "mrr"})
        results[method] = {**scores, "ms": round(ms, 1)}
    retriever = Retriever(passages, embedder)
    hits_of = [retriever.search(question.question, _MANY) for question in questions]
    results["floors"] = floors(questions, [max(hit.cosine for hit in hits) for hits in hits_of])
    results["parts"] = parts(questions, passages, embedder)
    return results


def main() -> None:
    """Print each split's results, then all as one JSON object."""
    off = load_settings().retrieval.model_copy(update={"min_similarity": -1.0, "min_expansion_similarity": -1.0})
    embedder = Embedder(BUILT_EMBEDDING, threads=1)
    results = {}
    with tempfile.TemporaryDirectory(prefix="graft-retrieval-") as tables:
        passages = PassageIndex(BUILT_INDEX, Path(tables), off)
        questions = read_eval_queries(EVAL_QUERIES, passages.chunks)
        for split in ("tune", "eval"):
            results[split] = measure([q for q in questions if q.split == split], passages, embedder)
            for name, metrics in results[split].items():
                for row in metrics if isinstance(metrics, list) else [metrics]:
                    print(split, name, json.dumps(row), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    run_main(main)
