"""Stage `evaluate`: offline evaluation of the package that will be served, on the engine that serves it.

The base alone, the incumbent in production (if any) and the candidate answer the same eval rows, each in
a process of its own, so that its memory is measured separately. The stage writes one row per system and
example, and the totals; the gate decides on them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas

from tasks.core.errors import GraftError, run_main
from tasks.core.files import new_folder, write_json
from tasks.core.paths import (
    BUILT_BASE,
    BUILT_BASELINE,
    BUILT_EVALUATION,
    BUILT_GROUNDING,
    BUILT_PACKAGE,
    CONTRACT,
    INCUMBENT,
)
from tasks.core.progress import Progress
from tasks.core.records import Example, Message, dump_messages
from tasks.core.settings import load_settings
from tasks.data.contract_spec import ContractSpec, load_contract
from tasks.data.examples import load_examples
from tasks.engine.loading import Model, open_base, open_package
from tasks.engine.protocol import Generation
from tasks.engine.resources import EXCLUSIVE
from tasks.evaluation.outputs import ROWS, SCORES
from tasks.evaluation.peak_memory import with_peak_memory
from tasks.evaluation.response_features import measure_response
from tasks.evaluation.scoring import score_response
from tasks.model_package.manifest import package_digest
from tasks.prompt.tool_calls import ParsedAnswer
from tasks.registry.registry import Registry, open_registry
from tasks.retrieval import lookup_tool
from tasks.text.language import language_of

_MEANS = ("quality", "exact_match", "tool_call_match", "token_f1", "refusal_correct", "valid_format")


def evaluate_system(
    system: str, model: Model, examples: Sequence[Example], terms: ContractSpec, batch_size: int
) -> list[dict[str, Any]]:
    """One row per example with its scores, features, text and times.

    `latency_ms` is measured in a full engine, so it compares systems under the same load and does not
    apply to a single request.

    Args:
        system: `base`, `incumbent` or `candidate`.
        model: the opened system.
        examples: the eval rows.
        terms: the contract, for languages, expected behavior and refusal phrases.
        batch_size: rows in the engine at a time.
    """
    ordered = sorted(examples, key=lambda e: len(model.prompt.encode_prompt(e.prompt)))
    progress = Progress(f"evaluate {system}", len(ordered), "rows", "tokens")
    rows: list[dict[str, Any]] = []
    tokens = 0
    for index, calls in answers_with_lookup(model, [example.prompt for example in ordered], batch_size):
        rows.append({"system": system, **score_answer(ordered[index], calls, terms, model.prompt.known_tool_names())})
        tokens += sum(generation.completion_tokens for generation, _ in calls)
        progress.update(len(rows), tokens)
    return rows


ModelCalls = tuple[tuple[Generation, ParsedAnswer], ...]
"""The model calls for one prompt, one or two: see `answers_with_lookup`."""


def answers_with_lookup(
    model: Model, prompts: Sequence[Sequence[Message]], batch_size: int
) -> Iterator[tuple[int, ModelCalls]]:
    """The answer to each prompt, with the prompt's index.

    As in serving, a model that calls the lookup tool receives the passages and is called again.
    """
    lookups: list[tuple[int, tuple[Generation, ParsedAnswer]]] = []
    for index, generation, answer in model.answers(prompts, batch_size):
        if any(call.name == lookup_tool.NAME for call in answer.tool_calls):
            lookups.append((index, (generation, answer)))
        else:
            yield index, ((generation, answer),)
    second_prompts = [
        (*prompts[index], lookup_tool.call_message(), lookup_tool.read_message(prompts[index])) for index, _ in lookups
    ]
    for number, generation, answer in model.answers(second_prompts, batch_size):
        index, first = lookups[number]
        yield index, (first, (generation, answer))


def score_answer(example: Example, calls: ModelCalls, terms: ContractSpec, tools: Collection[str]) -> dict[str, Any]:
    """The row of one answer: scores of the last model call, features of the first, as in telemetry.

    `latency_ms` and `decoded_tokens` are sums over all model calls.

    Args:
        example: the eval row.
        calls: the model calls for it.
        terms: the contract, for languages, expected behavior and refusal phrases.
        tools: names of the prompt's tools.
    """
    first, answer = calls[0], calls[-1][1]
    behavior = terms.labels.get(example.label, "answer")
    user_text = " ".join(message.content for message in example.prompt if message.role == "user")
    return {
        "id": example.id,
        "label": example.label,
        "language": language_of(terms.language)(user_text),
        "behaviour": behavior,
        **measure_response(example.prompt, *first, terms.refusal_phrases, tools).model_dump(),
        **score_response(answer, example.target, behavior, terms.refusal_phrases).model_dump(),
        "first_token_ms": first[0].first_token_ms,
        "latency_ms": sum(generation.latency_ms for generation, _ in calls),
        "decoded_tokens": sum(generation.completion_tokens for generation, _ in calls),
        "text": calls[-1][0].text,
        "expected": dump_messages([example.target]),
    }


def totals(rows: pandas.DataFrame) -> dict[str, Any]:
    """The totals per system: means over all rows and by label, median and 95th percentile of latency, peak memory."""

    def summary(group: pandas.DataFrame) -> dict[str, Any]:
        means = {name: round(float(group[name].astype(float).mean()), 4) for name in _MEANS}
        return {
            "n": len(group),
            **{name: value for name, value in means.items() if value == value},  # NaN: nothing to average
            "completion_tokens": round(float(group["completion_tokens"].mean()), 1),
            "latency_ms_p50": round(float(group["latency_ms"].quantile(0.5)), 1),
            "latency_ms_p95": round(float(group["latency_ms"].quantile(0.95)), 1),
        }

    return {
        str(system): {
            "all": summary(group),
            "peak_memory_mb": round(float(group["peak_memory_mb"].max()), 1),
            "labels": {str(label): summary(part) for label, part in group.groupby("label")},
        }
        for system, group in rows.groupby("system", sort=False)
    }


def check_effect(rows: pandas.DataFrame) -> None:
    """Refuse a candidate whose answers all equal its base's: its adapter is not applied, or has learned nothing.

    Raises:
        GraftError: no answer differs.
    """
    texts = {str(system): group.set_index("id")["text"] for system, group in rows.groupby("system")}
    base, candidate = texts["base"], texts["candidate"]
    differing = int((candidate.loc[base.index] != base).sum())
    print(f"evaluate: {differing} of {len(base)} answers differ from the base's", flush=True)
    if not differing:
        raise GraftError(
            f"evaluate: the candidate's answers to all {len(base)} eval rows are the base's: "
            "its adapter is not applied or has learned nothing; "
            "raise train.epochs or train.learning_rate in params.yaml"
        )


def ask_opened(
    name: str, open_model: Callable[[], Model], examples: Sequence[Example], terms: ContractSpec, batch_size: int
) -> list[dict[str, Any]]:
    """Open a system and evaluate it; prints the speed in rows per second.

    Args:
        name: `base`, `incumbent` or `candidate`.
        open_model: loads the system.
        examples: the eval rows.
        terms: the contract.
        batch_size: rows in the engine at a time.
    """
    model, start = open_model(), time.perf_counter()
    rows = evaluate_system(name, model, examples, terms, batch_size)
    print(f"evaluate {name}: {len(rows) / (time.perf_counter() - start):.2f} rows/s", flush=True)
    return rows


def systems(package: Path, base: Path, incumbent: Path, registry: Registry) -> dict[str, Callable[[], Model]]:
    """The systems to evaluate, by name; each is opened only when its turn comes, to hold one in memory at a time.

    Args:
        package: the candidate's folder.
        base: the candidate's base model.
        incumbent: the JSON file with the digest of the package in production, or null.
        registry: holds the incumbent.
    """
    loaders: dict[str, Callable[[], Model]] = {"base": partial(open_base, package, base, BUILT_BASELINE, EXCLUSIVE)}
    digest = json.loads(incumbent.read_text(encoding="utf-8"))["digest"]
    if digest is not None:
        loaders["incumbent"] = partial(open_package, registry.package(digest), registry.base(digest), EXCLUSIVE)
    loaders["candidate"] = partial(open_package, package, base, EXCLUSIVE)
    return loaders


def main() -> None:
    settings, terms = load_settings(), load_contract(CONTRACT)
    examples = load_examples(BUILT_GROUNDING / "eval.parquet")
    if not examples:
        raise GraftError(
            f"{BUILT_GROUNDING / 'eval.parquet'}: no eval examples; raise prepare.eval_fraction in params.yaml"
        )
    rows: list[dict[str, Any]] = []
    for name, open_model in systems(BUILT_PACKAGE, BUILT_BASE, INCUMBENT, open_registry()).items():
        work = partial(ask_opened, name, open_model, examples, terms, settings.evaluate.batch_size)
        system_rows, peak = with_peak_memory(work, f"evaluate {name}")
        rows += [{**row, "peak_memory_mb": peak} for row in system_rows]
    table = pandas.DataFrame(rows)
    check_effect(table)
    with new_folder(BUILT_EVALUATION) as folder:
        table.to_parquet(folder / ROWS, index=False)
        write_json(folder / SCORES, {"digest": package_digest(BUILT_PACKAGE), "systems": totals(table)})
    for name, metrics in totals(table).items():
        print(f"evaluate: {name}: quality {metrics['all']['quality']:.3f} on {metrics['all']['n']} rows")


if __name__ == "__main__":
    run_main(main)
