"""The serving benchmark's table: the same prompts through every system, interleaved."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import psutil

from benchmarks.serving.closed_loop_clients import Figures, figures
from benchmarks.serving.resource_usage import cpu_seconds, memory_mb, spent
from benchmarks.serving.systems import System
from benchmarks.serving.workload import Workload
from tasks.core.errors import GraftError

LEVELS = (1, 8, 32)
"""Requests that are open at once."""
MAX_TOKENS = 64
PEERS = ("llama.cpp", "transformers serve")
_WARM_UP = 16


@dataclass(frozen=True)
class Measured(Figures):
    """One stretch of answers with what it took of the machine."""

    cpu_s_per_1000: float
    memory_mb: float


Results = dict[tuple[str, int], Measured]
"""By system and requests that are open at once: medians over the rounds."""


def measure(systems: Sequence[System], workload: Workload, rounds: int) -> Results:
    """Ask every system with every slice of prompts in turn, while the others are up and idle.

    A slice is asked once, so that no kept prefix answers for a whole prompt. A stretch in which an
    answer failed is told and left out.

    Raises:
        GraftError: a system does not answer at all, or is asked with other tokens than the package is.
    """
    levels = [level for _ in range(rounds) for level in LEVELS]
    warm_up, *slices = workload.slices([_WARM_UP, *(max(8, 3 * level) for level in levels)])
    for system in systems:
        _warm_up(system, warm_up, workload)
    found: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    for turn, (level, texts) in enumerate(zip(levels, slices, strict=True)):
        first = turn % len(systems)
        for system in (*systems[first:], *systems[:first]):
            try:
                measured = _stretch(system, texts, level)
            except (ValueError, psutil.NoSuchProcess) as error:
                print(f"{system.name} at {level}: {error}", flush=True)
                continue
            found[system.name, level].append(measured)
            print(f"{system.name} at {level}: {measured.tok_s:.0f} tokens/s", flush=True)
    return {key: _median(stretches) for key, stretches in found.items()}


def show(systems: Sequence[System], results: Results) -> None:
    """Print the results in Markdown."""
    print("| at once | system | tokens/s | first token ms p50, p95 | between tokens ms p50, p95 | CPU s / 1,000 | MB |")
    print("|---|---|---|---|---|---|---|")
    for level in LEVELS:
        for system in systems:
            if m := results.get((system.name, level)):
                first, between = f"{m.ttft_p50:.0f}, {m.ttft_p95:.0f}", f"{m.itl_p50:.1f}, {m.itl_p95:.1f}"
                took = f"{m.cpu_s_per_1000:.1f} | {m.memory_mb:.0f}"
                print(f"| {level} | {system.name} | {m.tok_s:.1f} | {first} | {between} | {took} |")
    print("MB: proportional set size of all of a system's processes, read after each stretch.", flush=True)


def ratios(results: Results) -> dict[str, float]:
    """Ours over the best peer, and what the service costs, at 8; those whose systems were measured."""
    ours, alone = results.get(("service", 8)), results.get(("engine alone", 8))
    peers = [results[peer, 8] for peer in PEERS if (peer, 8) in results]
    told: dict[str, float] = {}
    if ours and peers:
        told["tok_s_ratio_8"] = ours.tok_s / max(peer.tok_s for peer in peers)
        told["ttft_ratio_8"] = ours.ttft_p50 / min(peer.ttft_p50 for peer in peers)
    if ours and alone:
        told["service_overhead_8"] = 1 - ours.tok_s / alone.tok_s
    return told


def _warm_up(system: System, texts: Sequence[str], workload: Workload) -> None:
    answers = system.drive(texts, 8, MAX_TOKENS)
    failed = [answer.status for answer in answers if not answer.ended]
    if failed:
        raise GraftError(f"{system.name}: {len(failed)} of {len(answers)} first answers failed, status {failed[0]}")
    wanted, found = sorted(len(workload.tokens(t)) for t in texts), sorted(a.prompt_tokens for a in answers)
    if wanted != found:
        raise GraftError(f"{system.name}: its prompts have {found} tokens, and the package's have {wanted}")


def _stretch(system: System, texts: Sequence[str], level: int) -> Measured:
    before = cpu_seconds(system.pid)
    seen = figures(system.drive(texts, level, MAX_TOKENS))
    took = spent(before, cpu_seconds(system.pid))
    return Measured(**asdict(seen), cpu_s_per_1000=took / seen.tokens * 1000, memory_mb=memory_mb(system.pid))


def _median(stretches: Sequence[Measured]) -> Measured:
    names = [field.name for field in fields(Measured)]
    return Measured(**{name: statistics.median(getattr(s, name) for s in stretches) for name in names})
