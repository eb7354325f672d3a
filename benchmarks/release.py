"""How far a release can be trusted without watching it: what is measured of each part, one after the other.

The gate's error rates are simulated (`tasks/gate/error_rates.py`), with the settings in params.yaml. Load during
every step of a rollout and kill -9 in every phase happen to a real stack with a tiny model on a copy of
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
    """Two tables, and the two rates that are promised, each the worst of `AGREEMENTS`."""
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
    print(f"\n{SLICES} slices, the middle of these:\n")
    print(f"| rows in each | equal: any fails | one lost: it fails | one lost that was {GOOD:.0%} right: it fails |")
    print("| ---: | ---: | ---: | ---: |")
    for n in SLICE_ROWS:
        found = slice_rates(SLICES, n, AGREEMENTS[1], settings)
        print(f"| {n} | {found.alarms:.3f} | {found.caught:.3f} | {found.caught_good:.3f} |")
    print(flush=True)


def faults() -> dict[str, Any]:
    """What a release does to requests, and what kills do to a release; a failure is shown, and counts."""
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
        found: dict[str, Any] = json.loads(counts.read_text(encoding="utf-8"))
    return found


PARTS: tuple[Callable[[], dict[str, Any]], ...] = (gate, faults)
"""Each prints what a person reads, and gives its figures for the last line."""


def main() -> None:
    figures: dict[str, Any] = {}
    for part in PARTS:
        figures |= part()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
