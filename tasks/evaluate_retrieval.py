"""Stage `evaluate_retrieval`: the retrieval evaluation, recall@k and MRR over questions with known sections.

build/evaluate_retrieval/scores.json

The questions (`data/retrieval/eval_queries.jsonl`) were written by hand in customers' words, each with the
file and the heading of the section that answers it, or null for both if no document of the shop does.
The split `tune` is for choosing settings, the split `eval` for the reported metrics. No language model takes
part. This is a stage of its own, so that a new question does not rebuild the index.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks.core.errors import run_main
from tasks.core.files import write_json
from tasks.core.paths import BUILT_EMBEDDING, BUILT_EVALUATE_RETRIEVAL, BUILT_INDEX, EVAL_QUERIES
from tasks.core.settings import load_settings
from tasks.evaluation.retrieval_metrics import Split, read_eval_queries, score
from tasks.retrieval.embedder import Embedder
from tasks.retrieval.index_files import read_index
from tasks.retrieval.search import PassageIndex, Retriever

SCORES = "scores.json"


def main() -> None:
    settings = load_settings()
    cutoffs = settings.evaluate_retrieval.cutoffs
    questions = read_eval_queries(EVAL_QUERIES, read_index(BUILT_INDEX).chunks)
    with tempfile.TemporaryDirectory(prefix="graft-recall-") as tables:
        passages = PassageIndex(BUILT_INDEX, Path(tables), settings.retrieval)
        retriever = Retriever(passages, Embedder(BUILT_EMBEDDING, threads=1))
        results = [(q, [hit.chunk for hit in retriever.search(q.question, max(cutoffs))]) for q in questions]
    splits: tuple[Split, ...] = ("tune", "eval")
    scores = {split: score([result for result in results if result[0].split == split], cutoffs) for split in splits}
    write_json(BUILT_EVALUATE_RETRIEVAL / SCORES, {split: result.model_dump() for split, result in scores.items()})
    reported = scores["eval"]
    print(f"evaluate_retrieval: recall {reported.recall}, MRR {reported.mrr}, {reported.questions} questions")


if __name__ == "__main__":
    run_main(main)
