"""What the gate judges a package by: rows of the stage `evaluate` and rates of the stage `evaluate_assistant`.

Both stages write down which package they asked. A variant of a package (other weights, merged,
quantised) has another digest, so it can't be released on what its original was measured at.
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
"""The systems that are evaluated, as the column `system` has them."""


def read_outputs(digest: str, evaluation: Path, assistant: Path) -> tuple[pd.DataFrame, dict[str, Rate]]:
    """The evaluation rows and the rates of whole turns of the package `digest`.

    Raises:
        GraftError: one is missing, or was measured of another package.
    """
    _check(digest, evaluation / SCORES, "evaluate")
    _check(digest, assistant / SCORES, "evaluate_assistant")
    return pd.read_parquet(evaluation / ROWS), read_rates(assistant / SCORES)


def _check(digest: str, scores: Path, stage: str) -> None:
    """Refuse scores of another package."""
    remedy = f"run `dvc repro {stage}`, then judge it again"
    try:
        measured = json.loads(scores.read_bytes())["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(f"{scores}: does not say which package was measured; {remedy} ({error})") from error
    if measured != digest:
        raise GraftError(f"{scores}: was measured of package {measured}, not of {digest}, which is judged; {remedy}")


class Rate(Record):
    """`value` over `n` rows; None where there are none."""

    n: int
    value: float | None


def rate_of(hits: Collection[bool]) -> Rate:
    """The share of `hits` that are true."""
    return Rate(n=len(hits), value=round(sum(hits) / len(hits), 4) if hits else None)


def read_rates(path: Path) -> dict[str, Rate]:
    """The overall rates in a stage's `scores.json`, by name.

    Raises:
        GraftError: there are none.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return {name: Rate.model_validate(rate) for name, rate in content["rates"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise GraftError(f"{path}: no rates there; run the stage `evaluate_assistant` ({error})") from error
