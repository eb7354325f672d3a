"""What the gate judges a package by: rows of the stage `evaluate` and rates of the stage `evaluate_assistant`.

Both stages write down which package they asked. A variant of a package (other weights, merged,
quantised) has another digest, so it can't be released on what its original was measured at.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from tasks import evaluate
from tasks import evaluate_assistant as whole_turns
from tasks.core.errors import GraftError
from tasks.evaluation.rates import Rate, read_rates


def read_evidence(digest: str, evaluation: Path, assistant: Path) -> tuple[pd.DataFrame, dict[str, Rate]]:
    """The evaluation rows and the rates of whole turns of the package `digest`.

    Raises:
        GraftError: one is missing, or was measured of another package.
    """
    _check(digest, evaluation / evaluate.SCORES, "evaluate")
    _check(digest, assistant / whole_turns.SCORES, "assistant")
    return pd.read_parquet(evaluation / evaluate.ROWS), read_rates(assistant / whole_turns.SCORES)


def _check(digest: str, scores: Path, stage: str) -> None:
    """Refuse scores of another package."""
    remedy = f"run `dvc repro {stage}`, then judge it again"
    try:
        measured = json.loads(scores.read_bytes())["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(f"{scores}: does not say which package was measured; {remedy} ({error})") from error
    if measured != digest:
        raise GraftError(f"{scores}: was measured of package {measured}, not of {digest}, which is judged; {remedy}")
