"""Outputs of the evaluation stages, the input of the gate: rows of `evaluate` and rates of `evaluate_assistant`.

Both stages record the digest of the package that they evaluated. A variant of a package (other weights,
merged, quantized) has another digest, so it cannot be released on the results of its original.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.core.errors import GraftError
from tasks.core.records import Record

ROWS, SCORES = "rows.parquet", "scores.json"
"""The files that both evaluation stages write: one row per answer, and the totals."""
BASE, INCUMBENT, CANDIDATE = "base", "incumbent", "candidate"
"""The systems that are evaluated, as named in the column `system`."""


def read_outputs(digest: str, evaluation: Path, assistant: Path) -> tuple[pd.DataFrame, dict[str, Rate]]:
    """The evaluation rows and the rates of the end-to-end evaluation of the package `digest`.

    Args:
        digest: the package.
        evaluation: output folder of the stage `evaluate`.
        assistant: output folder of the stage `evaluate_assistant`.

    Raises:
        GraftError: an output is missing, or is of another package.
    """
    _check(digest, evaluation / SCORES, "evaluate")
    _check(digest, assistant / SCORES, "evaluate_assistant")
    return pd.read_parquet(evaluation / ROWS), read_rates(assistant / SCORES)


def _check(digest: str, scores: Path, stage: str) -> None:
    """Reject scores of another package."""
    remedy = f"run `dvc repro {stage}`, then run the gate again"
    try:
        evaluated = json.loads(scores.read_bytes())["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(f"{scores}: does not say which package was evaluated; {remedy} ({error})") from error
    if evaluated != digest:
        raise GraftError(f"{scores}: is of package {evaluated}, but the gate judges {digest}; {remedy}")


class Rate(Record):
    """A rate with the number of rows that it is of."""

    n: int
    """Number of rows."""
    value: float | None
    """Fraction of the rows, from 0 to 1 (`policy_violations`: the number of turns with one); None without rows."""


def rate_of(hits: Collection[bool]) -> Rate:
    """The fraction of `hits` that are true."""
    return Rate(n=len(hits), value=round(sum(hits) / len(hits), 4) if hits else None)


def read_rates(path: Path) -> dict[str, Rate]:
    """The overall rates in a stage's `scores.json`, by name.

    Raises:
        GraftError: the file cannot be read or has no rates.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return {name: Rate.model_validate(rate) for name, rate in content["rates"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise GraftError(f"{path}: no rates there; run the stage `evaluate_assistant` ({error})") from error
