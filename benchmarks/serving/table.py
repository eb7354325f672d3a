"""Table of the serving benchmark: throughput, latency and resources of every system, on the same prompts."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import psutil

from benchmarks.serving.closed_loop_clients import LatencyMetrics, latency_metrics
from benchmarks.serving.resource_usage import cpu_seconds, memory_mb, spent
from benchmarks.serving.systems import System
from benchmarks.serving.workload import Workload
from tasks.core.errors import GraftError

LEVELS = (1, 8, 32)
"""Numbers of concurrent requests."""
MAX_TOKENS = 64
PEERS = ("llama.cpp", "transformers serve")
_WARM_UP = 16


@dataclass(frozen=True)
class SystemMetrics(LatencyMetrics):
    """Throughput, latency and resource usage of one measured run."""

    cpu_s_per_1000: float
    """CPU seconds per 1,000 generated tokens."""
    memory_mb: float
    """Proportional set size of all processes, in MiB."""


Results = dict[tuple[str, int], SystemMetrics]
"""By system and number of concurrent requests: medians over the repetitions."""


def measure(systems: Sequence[System], workload: Workload, repeats: int) -> Results:
    """Measure every system with every slice of prompts in turn, while the others run idle.

    A slice is used once per system, so that no cached prefix covers a whole prompt. A run with a failed answer
    is printed and left out.

    Raises:
        GraftError: a system does not answer, or its prompts have other numbers of tokens than the package's.
    """
    levels = [level for _ in range(repeats) for level in LEVELS]
    warm_up, *slices = workload.slices([_WARM_UP, *(max(8, 3 * level) for level in levels)])
    for system in systems:
        _warm_up(system, warm_up, workload)
    runs: dict[tuple[str, int], list[SystemMetrics]] = defaultdict(list)
    for turn, (level, texts) in enumerate(zip(levels, slices, strict=True)):
        first = turn % len(systems)
        for system in (*systems[first:], *systems[:first]):
            try:
                metrics = _run(system, texts, level)
            except (ValueError, psutil.NoSuchProcess) as error:
                print(f"{system.name} at {level}: {error}", flush=True)
                continue
            runs[system.name, level].append(metrics)
            print(f"{system.name} at {level}: {metrics.tok_s:.0f} tokens/s", flush=True)
    return {key: _median(repeated) for key, repeated in runs.items()}


def show(systems: Sequence[System], results: Results) -> None:
    """Print the results in Markdown."""
    print("| concurrent | system | tokens/s | first token ms p50, p95 | inter-token ms p50, p95 | CPU s / 1,000 | MB |")
    print("|---|---|---|---|---|---|---|")
    for level in LEVELS:
        for system in systems:
            if m := results.get((system.name, level)):
                first, between = f"{m.ttft_p50:.0f}, {m.ttft_p95:.0f}", f"{m.itl_p50:.1f}, {m.itl_p95:.1f}"
                resources = f"{m.cpu_s_per_1000:.1f} | {m.memory_mb:.0f}"
                print(f"| {level} | {system.name} | {m.tok_s:.1f} | {first} | {between} | {resources} |")
    print("MB: proportional set size of all of a system's processes, read after each run.", flush=True)


def ratios(results: Results) -> dict[str, float]:
    """Ratios of the service to the best peer, and its overhead over the engine, at 8 concurrent requests.

    A ratio whose systems were not measured is left out.
    """
    service, engine = results.get(("service", 8)), results.get(("engine alone", 8))
    peers = [results[peer, 8] for peer in PEERS if (peer, 8) in results]
    values: dict[str, float] = {}
    if service and peers:
        values["tok_s_ratio_8"] = service.tok_s / max(peer.tok_s for peer in peers)
        values["ttft_ratio_8"] = service.ttft_p50 / min(peer.ttft_p50 for peer in peers)
    if service and engine:
        values["service_overhead_8"] = 1 - service.tok_s / engine.tok_s
    return values


def _warm_up(system: System, texts: Sequence[str], workload: Workload) -> None:
    answers = system.drive(texts, 8, MAX_TOKENS)
    failed = [answer.status for answer in answers if not answer.ended]
    if failed:
        raise GraftError(f"{system.name}: {len(failed)} of {len(answers)} first answers failed, status {failed[0]}")
    expected, actual = sorted(len(workload.tokens(t)) for t in texts), sorted(a.prompt_tokens for a in answers)
    if expected != actual:
        raise GraftError(f"{system.name}: its prompts have {actual} tokens, and the package's have {expected}")


def _run(system: System, texts: Sequence[str], level: int) -> SystemMetrics:
    before = cpu_seconds(system.pid)
    latency = latency_metrics(system.drive(texts, level, MAX_TOKENS))
    cpu_s = spent(before, cpu_seconds(system.pid))
    cpu_s_per_1000 = cpu_s / latency.tokens * 1000
    return SystemMetrics(**asdict(latency), cpu_s_per_1000=cpu_s_per_1000, memory_mb=memory_mb(system.pid))


def _median(runs: Sequence[SystemMetrics]) -> SystemMetrics:
    names = [field.name for field in fields(SystemMetrics)]
    return SystemMetrics(**{name: statistics.median(getattr(run, name) for run in runs) for name in names})
