"""Launcher of the stage `evaluate_assistant`: end-to-end evaluation of the candidate on eval rows and attacks.

The scoring is in `tasks/evaluate_assistant.py`, the assistant without Ray in
`deployments/evaluation/harness.py`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployments.app.guardrails.configured import configured_guardrails
from deployments.app.steps.instructions import read_instructions
from deployments.core.messages import Event, TurnRequest
from deployments.core.settings import ReplicaSettings
from deployments.evaluation.harness import AssistantHarness, Knowledge, PackageUnderTest
from deployments.evaluation.sandbox import Sandbox
from deployments.replicas.embedding import EmbeddingServer
from deployments.replicas.engine import PackageServer
from tasks.core.errors import GraftError, run_main
from tasks.core.paths import (
    BUILT_BASE,
    BUILT_EMBEDDING,
    BUILT_EVALUATE_ASSISTANT,
    BUILT_EVALUATE_RETRIEVAL,
    BUILT_EXAMPLES,
    BUILT_INDEX,
    BUILT_PACKAGE,
    BUILT_PROMPT_INJECTION,
    CONTRACT,
    EXPECTED_OUTCOMES,
    REDTEAM,
    SHOP_SEED,
)
from tasks.core.progress import Progress
from tasks.core.records import Example
from tasks.core.settings import Settings, load_settings
from tasks.data.contract_spec import load_contract
from tasks.data.examples import load_examples
from tasks.domains.loader import load_domain
from tasks.engine.loading import open_package
from tasks.engine.resources import Resources
from tasks.evaluate_assistant import attack_turn, eval_turn, other_stage_rates, report, score_attack, score_turn, write
from tasks.evaluation.assistant_turns import ObservedTurn
from tasks.evaluation.expected import ExpectedOutcome, read_expected
from tasks.evaluation.outputs import SCORES
from tasks.model_package.manifest import package_digest, read_manifest
from tasks.retrieval import index_files
from tasks.retrieval.embedder import Embedder
from tasks.retrieval.index_files import read_index
from tasks.safety.injection_classifier import open_classifier
from tasks.safety.red_team_prompts import Attack, read_attacks
from tasks.tools.domain_interface import LeakLimits

Json = dict[str, Any]


class InProcessEngine(PackageServer):
    """A `Backend` with one package, in this process."""

    def stream(self, app: str, request: TurnRequest) -> AsyncGenerator[Event]:
        """See `Backend.stream`."""
        return self._events(request)

    async def _events(self, request: TurnRequest) -> AsyncGenerator[Event]:
        async for event in self.turn(request):
            yield event


def engine(package: Path, base: Path, max_num_seqs: int) -> InProcessEngine:
    """The package's own engine, in a subprocess where its steps would block this process.

    Raises:
        GraftError: as `open_package`.
    """
    timeouts = {"first_token_timeout_s": 3600.0, "request_timeout_s": 3600.0, "start_timeout_s": 300.0}
    settings = ReplicaSettings(
        threads=1,
        cache_gb=2,
        max_num_seqs=max_num_seqs,
        stream_every_s=0.1,
        max_queued=10**6,
        health_check_period_s=3600.0,
        **timeouts,
    )
    model = open_package(package, base, Resources(threads=None, cache_gb=settings.cache_gb, in_subprocess=True))
    return InProcessEngine(model, read_manifest(package).refusal_phrases, settings)


@contextmanager
def candidate(settings: Settings, concurrency: int) -> Iterator[AssistantHarness]:
    """The candidate from `build/`, in the whole assistant.

    Raises:
        GraftError: a stage's output is missing, or does not fit the package.
    """
    manifest = read_manifest(BUILT_PACKAGE)
    guardrails = configured_guardrails(settings.guardrails, open_classifier(BUILT_PROMPT_INJECTION))
    package = PackageUnderTest(
        package_digest(BUILT_PACKAGE),
        manifest.name,
        manifest.engine.max_new_tokens,
        read_instructions(BUILT_PACKAGE),
        manifest.grounding,
    )
    with tempfile.TemporaryDirectory(prefix="graft-assistant-") as temporary:
        folder = Path(temporary)
        index_files.publish(BUILT_INDEX, folder / "indexes")
        embedder = EmbeddingServer(Embedder(BUILT_EMBEDDING, threads=1))
        knowledge = Knowledge(folder / "indexes", folder / "tables", embedder)
        limits = LeakLimits(package.instructions, settings.guardrails.leaked_words, settings.guardrails.link_hosts)
        sandbox = Sandbox(load_domain(settings.tools.domain), settings.shop, SHOP_SEED, folder / "states", limits)
        yield AssistantHarness(
            engine(BUILT_PACKAGE, BUILT_BASE, concurrency), package, knowledge, sandbox, guardrails, settings.tools
        )


def expectations(examples: Sequence[Example]) -> dict[str, ExpectedOutcome]:
    """The expected outcome of each row; an empty one for a row without a line in the file.

    Raises:
        GraftError: as `read_expected`.
    """
    listed = read_expected(EXPECTED_OUTCOMES, {passage.section for passage in read_index(BUILT_INDEX).chunks})
    return {example.id: listed.get(example.id, ExpectedOutcome(id=example.id)) for example in examples}


async def run(
    harness: AssistantHarness,
    examples: Sequence[Example],
    attacks: Sequence[Attack],
    settings: Settings,
    concurrency: int,
) -> list[Json]:
    """Run the turns of eval rows and attacks; one scored row for each, in their order.

    Attacks are streamed: text that was sent cannot be recalled, so streaming is the harder test.

    Args:
        harness: runs the turns.
        examples: the eval rows.
        attacks: the attacks.
        settings: all settings.
        concurrency: turns that run at a time.
    """
    terms, unfinished = load_contract(CONTRACT), settings.tools.unfinished_message
    expected = expectations(examples)
    eval_turns = [(eval_turn(example, expected[example.id]), False) for example in examples]
    eval_turns += [(attack_turn(attack), True) for attack in attacks]
    progress = Progress("evaluate_assistant", len(eval_turns), "turns", "turns")
    observed: dict[int, ObservedTurn] = {}
    async for index, turn in harness.run_turns(eval_turns, concurrency):
        observed[index] = turn
        progress.update(len(observed), len(observed))
    turns = [observed[index] for index in range(len(eval_turns))]
    scored = [
        score_turn(example, expected[example.id], turn, terms, unfinished)
        for example, turn in zip(examples, turns, strict=False)
    ]
    attacked = zip(attacks, turns[len(examples) :], strict=True)
    return [*scored, *(score_attack(attack, turn, terms, unfinished) for attack, turn in attacked)]


def main() -> None:
    settings = load_settings()
    examples = load_examples(BUILT_EXAMPLES / "eval.parquet")
    if not examples:
        raise GraftError(
            f"{BUILT_EXAMPLES / 'eval.parquet'}: no eval examples; raise prepare.eval_fraction in params.yaml"
        )
    concurrency = settings.evaluate_assistant.concurrency
    with candidate(settings, concurrency) as harness:
        rows = asyncio.run(run(harness, examples, read_attacks(REDTEAM), settings, concurrency))
    others = other_stage_rates(BUILT_PROMPT_INJECTION / SCORES, BUILT_EVALUATE_RETRIEVAL / SCORES)
    scores = write(rows, package_digest(BUILT_PACKAGE), others, BUILT_EVALUATE_ASSISTANT)
    report(rows, print)
    for name, rate in scores["rates"].items():
        print(f"evaluate_assistant: {name} {rate['value']} of {rate['n']}")


if __name__ == "__main__":
    run_main(main)
