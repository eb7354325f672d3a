"""Outputs of evaluation: the gate judges a package by its own results and rejects those of another package."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tasks.core.errors import GraftError
from tasks.core.files import write_json
from tasks.evaluation.outputs import Rate, rate_of, read_outputs, read_rates

DIGEST, ORIGINAL = "ab" * 32, "cd" * 32


def write_outputs(folder: Path, rows_of: str, rates_of: str) -> tuple[Path, Path]:
    """The outputs of both stages: rows of the package `rows_of`, rates of the package `rates_of`."""
    evaluation, assistant = folder / "evaluation", folder / "assistant"
    write_json(evaluation / "scores.json", {"digest": rows_of, "systems": {}})
    pd.DataFrame({"system": ["base"], "quality": [0.5]}).to_parquet(evaluation / "rows.parquet")
    write_json(assistant / "scores.json", {"digest": rates_of, "rates": {"answered": {"n": 2, "value": 1.0}}})
    return evaluation, assistant


def test_what_was_measured_of_the_package_is_read(tmp_path: Path) -> None:
    rows, rates = read_outputs(DIGEST, *write_outputs(tmp_path, DIGEST, DIGEST))
    assert rows.to_dict("list") == {"system": ["base"], "quality": [0.5]}
    assert rates == {"answered": Rate(n=2, value=1.0)}


@pytest.mark.parametrize(
    ("rows_of", "rates_of", "stage"),
    [(ORIGINAL, DIGEST, "evaluate"), (DIGEST, ORIGINAL, "evaluate_assistant")],
)
def test_a_variant_is_not_judged_by_what_its_original_was_measured_at(
    tmp_path: Path, rows_of: str, rates_of: str, stage: str
) -> None:
    with pytest.raises(GraftError, match=f"(?s){ORIGINAL}.*{DIGEST}.*run `dvc repro {stage}`"):
        read_outputs(DIGEST, *write_outputs(tmp_path, rows_of, rates_of))


def test_scores_that_name_no_package_are_refused(tmp_path: Path) -> None:
    evaluation, assistant = write_outputs(tmp_path, DIGEST, DIGEST)
    write_json(evaluation / "scores.json", {"systems": {}})
    with pytest.raises(GraftError, match="does not say which package was evaluated; run `dvc repro evaluate`"):
        read_outputs(DIGEST, evaluation, assistant)
    (evaluation / "scores.json").unlink()
    with pytest.raises(GraftError, match="does not say which package"):
        read_outputs(DIGEST, evaluation, assistant)


def test_a_share_of_nothing_is_no_number() -> None:
    assert rate_of([True, False, False]) == Rate(n=3, value=0.3333)
    assert rate_of([]) == Rate(n=0, value=None)


def test_rates_are_read_as_written_and_a_file_without_them_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "scores.json", {"digest": "d", "rates": {"answered": {"n": 2, "value": 1.0}}})
    assert read_rates(tmp_path / "scores.json") == {"answered": Rate(n=2, value=1.0)}
    write_json(tmp_path / "other.json", {"systems": {}})
    for name in ("other.json", "none.json"):
        with pytest.raises(GraftError, match=f"{name}: no rates there; run the stage `evaluate_assistant`"):
            read_rates(tmp_path / name)
