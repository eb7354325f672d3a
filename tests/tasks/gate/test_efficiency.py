"""Efficiency regression: the candidate's time and memory as a ratio to another system's, with a limit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.core.errors import GraftError
from tasks.gate.efficiency import EfficiencyComparison, compare_efficiency
from tests.support.eval_rows import SETTINGS, evaluation, system


def judge(rows: pd.DataFrame, **max_ratio: float) -> tuple[dict[str, EfficiencyComparison], dict[str, str]]:
    settings = SETTINGS.model_copy(update={"max_ratio": max_ratio})
    comparisons, findings = compare_efficiency(
        system(rows, "candidate"), system(rows, "incumbent"), "incumbent", settings
    )
    outcomes = {one.name: outcome for one, (outcome, _) in zip(comparisons, findings, strict=True)}
    return {one.name: one for one in comparisons}, outcomes


def pair(**factors: float) -> pd.DataFrame:
    """Two systems with noisy times; each factor multiplies a column of the candidate."""
    rows = evaluation(incumbent=0.5, candidate=0.5)
    noise = np.random.default_rng(2).lognormal(0, 0.3, len(rows))
    rows[["first_token_ms", "latency_ms"]] = rows[["first_token_ms", "latency_ms"]].mul(noise, axis=0)
    for column, factor in factors.items():
        rows[column] = rows[column].where(rows["system"] == "incumbent", rows[column] * factor)
    return rows


def test_equal_systems_pass_and_what_has_no_limit_is_not_judged() -> None:
    comparisons, outcomes = judge(pair(), first_token_ms=1.5, ms_per_token=1.5)
    assert outcomes == {"first_token_ms": "pass", "ms_per_token": "pass"}
    assert all(one.low < 1 < one.high for one in comparisons.values())


@pytest.mark.parametrize(
    ("name", "column"),
    [("first_token_ms", "first_token_ms"), ("ms_per_token", "latency_ms"), ("peak_memory_mb", "peak_memory_mb")],
)
def test_a_system_that_takes_twice_as_much_fails(name: str, column: str) -> None:
    comparisons, outcomes = judge(pair(**{column: 2.0}), first_token_ms=1.5, ms_per_token=1.5, peak_memory_mb=1.5)
    assert {key for key, outcome in outcomes.items() if outcome == "fail"} == {name}
    assert comparisons[name].ratio == pytest.approx(2.0, rel=0.35)


def test_a_ratio_that_could_be_on_either_side_is_inconclusive() -> None:
    comparisons, outcomes = judge(pair(), ms_per_token=1.0)
    assert outcomes == {"ms_per_token": "inconclusive"}
    assert comparisons["ms_per_token"].low < 1.0 < comparisons["ms_per_token"].high


def test_fewer_tokens_in_the_same_time_are_slower() -> None:
    _, outcomes = judge(pair(decoded_tokens=0.5), ms_per_token=1.5)
    assert outcomes == {"ms_per_token": "fail"}


def test_metrics_are_reported_with_their_units() -> None:
    settings = SETTINGS.model_copy(update={"max_ratio": {"peak_memory_mb": 1.1}})
    rows = pair(peak_memory_mb=1.25)
    [(outcome, sentence)] = compare_efficiency(
        system(rows, "candidate"), system(rows, "incumbent"), "incumbent", settings
    )[1]
    assert outcome == "fail"
    assert sentence.startswith("Peak memory is 1000 MB against the incumbent's 800, 1.25 times as much")


def test_a_row_without_a_time_is_refused_and_one_without_words_is_not() -> None:
    rows = pair()
    rows.loc[rows["id"] == "row-3", "decoded_tokens"] = 0
    judge(rows, ms_per_token=1.5)
    rows.loc[rows["id"] == "row-3", "latency_ms"] = 0.0
    with pytest.raises(GraftError, match="latency_ms of row row-3 is not a number above 0"):
        judge(rows, ms_per_token=1.5)
