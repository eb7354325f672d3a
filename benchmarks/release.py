"""Benchmark of an unattended release: error rates of the gate, and faults in every phase of a rollout.

The gate's error rates are simulated (`tasks/gate/error_rates.py`), with the settings in params.yaml. Load during
every step of a rollout and kill -9 in every phase are tested on a real stack with a tiny model and a copy of
the repository (`tests/integration/test_kill_minus_9.py`).

    python -m benchmarks.release

The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.core.settings import GateSettings, load_settings
from tasks.gate.error_rates import AGREEMENTS, GOOD, ErrorRates, error_rates, slice_rates

ROWS = 154
"""Eval rows of the default data."""
SIZES = (40, 80, ROWS, 300, 600)
SHIFTS = (-0.05, 0.0, 0.05, 0.10)
SLICES = 20
SLICE_ROWS = (8, 12, 20)

Rates = dict[tuple[int, float], list[ErrorRates]]
"""By rows and shift: one of each of `AGREEMENTS`."""


def gate() -> dict[str, Any]:
    """Print two tables; return the two guaranteed error rates, each the worst of `AGREEMENTS`."""
    settings = load_settings().gate
    found: Rates = {
        (n, shift): [error_rates(n, shift, agreement, settings) for agreement in AGREEMENTS]
        for n in SIZES
        for shift in SHIFTS
    }
    _show(found)
    _show_slices(settings)
    return {
        "promote_equal_rate": max(one.better for one in found[ROWS, 0.0]),
        "pass_worse5_rate": max(one.passed for one in found[ROWS, -0.05]),
    }


def _show(found: Rates) -> None:
    agreements = ", ".join(map(str, AGREEMENTS))
    print(f"Fractions of simulated evaluations, for systems whose answers agree with probability {agreements}:\n")
    print("| rows | equal: called better | 5 worse: passes | equal: passes | 5 better: passes | 10 better: passes |")
    print("| ---: | --- | --- | --- | --- | --- |")
    for n in SIZES:
        shown = [[one.better for one in found[n, 0.0]]]
        shown += [[one.passed for one in found[n, shift]] for shift in SHIFTS]
        print(f"| {n} | {' | '.join(', '.join(f'{share:.3f}' for share in shares) for shares in shown)} |")


def _show_slices(settings: GateSettings) -> None:
    print(f"\n{SLICES} slices, with the middle one of these probabilities:\n")
    print(f"| rows in each | equal: any fails | one lost: it fails | one lost that was {GOOD:.0%} right: it fails |")
    print("| ---: | ---: | ---: | ---: |")
    for n in SLICE_ROWS:
        found = slice_rates(SLICES, n, AGREEMENTS[1], settings)
        print(f"| {n} | {found.alarms:.3f} | {found.caught:.3f} | {found.caught_good:.3f} |")
    print(flush=True)


def faults() -> dict[str, Any]:
    """The number of lost requests during a release, and of survived kills; a failure is printed, and counts."""
    with tempfile.TemporaryDirectory(prefix="graft-faults-") as folder:
        counts = Path(folder) / "counts.json"
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "ignore",
            "-m",
            "faults",
            "tests/integration/test_kill_minus_9.py",
        ]
        subprocess.run(argv, env={**os.environ, "GRAFT_FAULTS": str(counts)}, check=False)
        results: dict[str, Any] = json.loads(counts.read_text(encoding="utf-8"))
    return results


PARTS: tuple[Callable[[], dict[str, Any]], ...] = (gate, faults)
"""The parts of the benchmark: each prints its tables, and returns its results for the last line."""


def main() -> None:
    results: dict[str, Any] = {}
    for part in PARTS:
        results |= part()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
