"""Comparison of the candidate's quality with another system's, and the type of a rule's finding.

The rules themselves are in `tasks/gate/verdict.py`.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd

from tasks.core.records import Record
from tasks.core.settings import GateSettings
from tasks.gate.bootstrap import Floats, interval, with_doubt

GateOutcome = Literal["pass", "fail", "inconclusive"]
RuleFinding = tuple[GateOutcome, str]
"""The result of one rule, and the sentence that says why."""


class Comparison(Record):
    """The candidate's quality compared with another system's on the same rows."""

    against: str
    """The other system: `base` or `incumbent`."""
    slice: str
    """Name of the slice; empty for all rows."""
    n: int
    """Number of rows."""
    candidate: float
    """Mean quality of the candidate, in [0, 1]."""
    other: float
    """Mean quality of the other system, in [0, 1]."""
    difference: float
    """`candidate` - `other`, in [-1, 1]."""
    low: float
    """Low end of the bootstrap interval of `difference`, with one row won and one row lost added
    (`tasks.gate.bootstrap.with_doubt`), in [-1, 1]."""
    high: float
    """High end of that interval, in [-1, 1]."""

    @property
    def better(self) -> bool:
        """Whether the candidate is significantly better; by how much is another question."""
        return self.low > 0


def quality(system: pd.DataFrame) -> Floats:
    """The quality of each of a system's rows, [n]."""
    return system["quality"].to_numpy(dtype="float64")


def compare(candidate: Floats, other: Floats, against: str, slice_name: str, settings: GateSettings) -> Comparison:
    """Compare the qualities of two systems on the same rows.

    Args:
        candidate: qualities of the candidate, [n], in [0, 1].
        other: qualities of the other system on the same rows, [n], in [0, 1].
        against: name of the other system.
        slice_name: name of the slice; empty for all rows.
        settings: the section `gate` of params.yaml.
    """
    low, high = interval(with_doubt(candidate - other), settings)
    return Comparison(
        against=against,
        slice=slice_name,
        n=len(candidate),
        candidate=float(candidate.mean()),
        other=float(other.mean()),
        difference=float((candidate - other).mean()),
        low=low,
        high=high,
    )
