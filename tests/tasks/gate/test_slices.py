"""Slices of the evaluation: their rows, which of them are judged, and no false alarms among many of them."""

from __future__ import annotations

import pandas as pd
import pytest

from tasks.core.settings import GateSettings, LengthSettings
from tasks.gate.slices import compare_slices, cut_slices
from tests.support.eval_rows import SETTINGS, evaluation, system


def changed(name: str, settings: GateSettings = SETTINGS, **values: object) -> GateSettings:
    content = settings.model_dump()
    content["slices"][name] |= values
    return GateSettings.model_validate(content)


def sentences(rows: pd.DataFrame, settings: GateSettings) -> list[tuple[str, str]]:
    others = {name: system(rows, name) for name in ("base", "incumbent") if (rows["system"] == name).any()}
    return list(compare_slices(system(rows, "candidate"), others, settings)[1])


def test_every_row_is_in_one_slice_of_each_sort() -> None:
    rows = evaluation(candidate=0.5).assign(prompt_tokens=[100, 101, 201] * 30)
    rows.loc[rows["id"] == "row-7", "language"] = "de"
    ids_by_slice = {part.name: set(part.ids) for part in cut_slices(system(rows, "candidate"), SETTINGS.slices)}
    sizes = {name: len(ids) for name, ids in ids_by_slice.items()}
    assert sizes == {
        "label answer": 60,
        "label tool": 30,
        "language de": 1,
        "language en": 89,
        "length up to 100": 30,
        "length 101 to 200": 30,
        "length over 200": 30,
    }
    assert ids_by_slice["language de"] == {"row-7"}


def test_a_slice_that_was_lost_fails_and_says_how() -> None:
    rows = evaluation(base=0.0, incumbent=0.8, candidate=0.8)
    rows.loc[(rows["system"] == "candidate") & (rows["label"] == "tool"), "quality"] = 0.2
    failed = [sentence for outcome, sentence in sentences(rows, SETTINGS) if outcome == "fail"]
    assert failed == [
        "Slice label tool: quality is 0.200 against the incumbent's 0.800 (30 rows), a loss significantly above the "
        "tolerated 0.250, with 8 slices compared."
    ]


def test_a_loss_within_the_limit_passes() -> None:
    rows = evaluation(base=0.0, incumbent=0.8, candidate=0.8)
    rows.loc[(rows["system"] == "candidate") & (rows["label"] == "tool"), "quality"] = 0.56
    assert {outcome for outcome, _ in sentences(rows, SETTINGS)} == {"pass"}
    assert {outcome for outcome, _ in sentences(rows, changed("label", non_inferiority_margin=0.2))} == {"pass", "fail"}


def test_a_slice_with_too_few_rows_is_named_and_not_judged() -> None:
    rows = evaluation(base=0.0, incumbent=0.8, candidate=0.8)
    rows.loc[(rows["system"] == "candidate") & (rows["label"] == "tool"), "quality"] = 0.0
    findings = sentences(rows, changed("label", min_rows=31))
    assert {outcome for outcome, _ in findings} == {"pass"}
    assert ("pass", "Not judged, because they have too few rows: label tool (30).") in findings
    assert any(outcome == "fail" for outcome, _ in sentences(rows, changed("label", min_rows=30)))


def test_the_base_is_compared_too() -> None:
    rows = evaluation(base=0.8, candidate=0.2)
    assert any("against the base's 0.800" in sentence for outcome, sentence in sentences(rows, SETTINGS))


def test_a_few_rows_that_went_wrong_fail_alone_and_not_among_many_slices() -> None:
    """Seven of 27 rows lost is significantly above a limit of 0.05 for one slice, but not rare among forty slices."""
    rows = evaluation(n=1080, incumbent=1.0, candidate=1.0)
    rows["label"] = [f"kind-{int(name.split('-')[1]) // 27:02d}" for name in rows["id"]]
    lost = (rows["system"] == "candidate") & rows["id"].isin([f"row-{i}" for i in range(7)])
    rows.loc[lost, "quality"] = 0.0
    settings = changed("label", non_inferiority_margin=0.05)
    for dimension in ("language", "length"):
        settings = changed(dimension, settings, min_rows=10**6)
    alone = rows[rows["label"] == "kind-00"]
    assert any(outcome == "fail" for outcome, _ in sentences(alone, settings))
    assert {outcome for outcome, _ in sentences(rows, settings)} == {"pass"}


@pytest.mark.parametrize("edges", [[], [200, 100], [100, 100], [0, 100]])
def test_edges_that_are_no_rising_lengths_are_refused(edges: list[int]) -> None:
    with pytest.raises(ValueError, match="edges"):
        LengthSettings(min_rows=8, non_inferiority_margin=0.1, edges=tuple(edges))
