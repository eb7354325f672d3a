"""Benchmark of the assistant end-to-end: the held-out split `test`, the attacks, and the app's own latency.

No setting is tuned on the split `test`, and no other code reads it. Each of its rows and each text of
`data/redteam` goes through all steps of a request in service, in this process, as the eval rows do in the stage
`evaluate_assistant`. The latency of a turn without the engine (checks, retrieval, rules,
HTTP in memory) is measured afterwards, on requests one after the other. For retrieval on
third-party documents it runs `benchmarks/retrieval_python_faq.py`; without network, pass the folder that it needs.

    python -m benchmarks.assistant [FOLDER]

The last line is one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import retrieval_python_faq
from deployments.evaluate_assistant import candidate, expectations, run
from deployments.evaluation.harness import AssistantHarness
from tasks.core.errors import run_main
from tasks.core.paths import (
    BUILT_EMBEDDING,
    BUILT_EVALUATE_RETRIEVAL,
    BUILT_EXAMPLES,
    BUILT_PACKAGE,
    BUILT_PROMPT_INJECTION,
    REDTEAM,
)
from tasks.core.records import Example
from tasks.core.settings import Settings, load_settings
from tasks.data.examples import load_examples
from tasks.evaluate_assistant import ATTACK, eval_turn, other_stage_rates, report, write
from tasks.evaluation.outputs import SCORES
from tasks.model_package.manifest import package_digest
from tasks.retrieval.embedder import Embedder
from tasks.safety.red_team_prompts import read_attacks

ALONE = 40
"""Number of requests that are timed."""
FAQ_HEADINGS, FAQ_METHOD = "none", "joined"
"""Text without headings, so that no question finds itself, and hybrid search, as in service; see
`benchmarks/retrieval_python_faq.py`."""
HEADLINE = ("tool_exact", "policy_violations", "false_refusal_rate", "recall_at_5")


def end_to_end(settings: Settings, examples: Sequence[Example]) -> tuple[dict[str, Any], float]:
    """The scores over all turns, and the median milliseconds of the app's own work per turn."""
    with candidate(settings, settings.evaluate_assistant.concurrency) as harness:
        rows = asyncio.run(
            run(harness, examples, read_attacks(REDTEAM), settings, settings.evaluate_assistant.concurrency)
        )
        own_ms = asyncio.run(app_ms(harness, examples[:: max(1, len(examples) // ALONE)]))
    report(rows, print)
    others = other_stage_rates(BUILT_PROMPT_INJECTION / SCORES, BUILT_EVALUATE_RETRIEVAL / SCORES)
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        scores = write(rows, package_digest(BUILT_PACKAGE), others, Path(temporary) / "assistant")
    return scores, statistics.median(own_ms)


async def app_ms(harness: AssistantHarness, examples: Sequence[Example]) -> list[float]:
    """Milliseconds of each turn without engine and queue, of turns that reached the engine; one turn at a time."""
    expected = expectations(examples)
    turns = [await harness.run_turn(eval_turn(example, expected[example.id]), stream=False) for example in examples]
    return [turn.latency_ms - turn.queue_ms - turn.engine_ms for turn in turns if turn.engine_ms]


def faq_recall() -> float:
    """Recall at 5 on Python's FAQ."""
    with tempfile.TemporaryDirectory(prefix="graft-faq-") as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if folder == Path(temporary):
            retrieval_python_faq.unpack(folder)
        faq = list(retrieval_python_faq.read_faq(folder))
    metrics = retrieval_python_faq.measure(
        faq, retrieval_python_faq.KEPT[FAQ_HEADINGS], Embedder(BUILT_EMBEDDING, threads=2)
    )
    return float(metrics[f"{FAQ_METHOD}_recall_{retrieval_python_faq.K}"] or 0.0)


def table(scores: dict[str, Any]) -> str:
    """The rates over all rows and by label, and the results of the attacks, as Markdown tables."""
    lines = ["| rate | value | n |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {rate['value']} | {rate['n']} |" for name, rate in scores["rates"].items()]
    columns = [name for name in scores["rates"] if any(name in rates for rates in scores["labels"].values())]
    lines += ["", f"| label | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for label, rates in scores["labels"].items():
        cells = [f"{rates[name]['value']} of {rates[name]['n']}" if name in rates else "" for name in columns]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", f"| {ATTACK} | n | refused | policy violations |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {aim} | {counts['n']} | {counts['refused']} | {counts['policy_violations']} |"
        for aim, counts in scores["attacks"].items()
    ]
    return "\n".join([*lines, "", f"False refusals by component: {json.dumps(scores['false_refusals_by'])}"])


def main() -> None:
    settings = load_settings()
    scores, own_ms = end_to_end(settings, load_examples(BUILT_EXAMPLES / "test.parquet"))
    print(table(scores))
    rates = {name: rate["value"] for name, rate in scores["rates"].items()}
    results = {name: rates[name] for name in HEADLINE}
    results |= {"recall_at_5_python_faq": faq_recall(), "app_ms_p50": round(own_ms, 1)}
    print(json.dumps({**results, **{name: rates[name] for name in ("injection_recall", "injection_fpr")}}))


if __name__ == "__main__":
    run_main(main)
