"""The candidate's quality beside another system's, and what a rule finds; which rules there are, the gate says."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from tasks.core.records import Record
from tasks.core.settings import GateSettings
from tasks.gate.bootstrap import Floats, interval, with_doubt

GateOutcome = Literal["pass", "fail", "inconclusive"]
RuleFinding = tuple[GateOutcome, str]
"""What came of one rule, and the sentence that says why."""


class Comparison(Record):
    """The candidate's quality less another system's, on the same `n` rows; all in [-1, 1].

    `slice` is empty where all rows count. `low` to `high` is the bootstrap interval of `difference`,
    with a row won and a row lost added (`tasks.gate.bootstrap.with_doubt`).
    """

    against: str
    slice: str
    n: int
    candidate: float
    other: float
    difference: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """Whether the candidate is better beyond doubt: by how much is another question."""
        return self.low > 0


def quality(system: pd.DataFrame) -> Floats:
    """The quality of each of a system's rows, [n]."""
    return system["quality"].to_numpy(dtype="float64")


def compare(candidate: Floats, other: Floats, against: str, where: str, settings: GateSettings) -> Comparison:
    """Compare qualities [n] of the same rows; `where` names the slice that they are."""
    low, high = interval(with_doubt(candidate - other), settings)
    return Comparison(
        against=against,
        slice=where,
        n=len(candidate),
        candidate=float(candidate.mean()),
        other=float(other.mean()),
        difference=float((candidate - other).mean()),
        low=low,
        high=high,
    )
