"""Stage `evaluate_retrieval`: how often the passage that answers a question is among the first found.

build/evaluate_retrieval/scores.json

The questions (`data/retrieval/eval_queries.jsonl`) were written by hand in customers' words, each with the file
and the heading under which its answer stands, or null for both if the shop's documents hold none.
Those of the split `tune` are for choosing settings, those of `eval` for the figures that are told.
No language model takes part. A stage of its own, so that a new question leaves the index as it was.
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
        asked = [(q, [hit.chunk for hit in retriever.search(q.question, max(cutoffs))]) for q in questions]
    splits: tuple[Split, ...] = ("tune", "eval")
    scores = {split: score([one for one in asked if one[0].split == split], cutoffs) for split in splits}
    write_json(BUILT_EVALUATE_RETRIEVAL / SCORES, {split: found.model_dump() for split, found in scores.items()})
    shown = scores["eval"]
    print(f"recall: {shown.recall}, MRR {shown.mrr}, of {shown.questions} questions")


if __name__ == "__main__":
    run_main(main)
