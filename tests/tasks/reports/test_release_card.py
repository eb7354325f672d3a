"""Tests of the release card: all files published beside a package lie in one folder, and the card shows them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.core.errors import GraftError
from tasks.core.files import sha256_tree, write_json, write_text
from tasks.core.settings import load_settings
from tasks.model_package.manifest import MANIFEST, read_manifest
from tasks.reports.release_card import CARD, PICTURE, gather, release_card
from tests.conftest import ROOT
from tests.support.constraints import SHEET

GATE = load_settings(ROOT / "params.yaml").gate
RATES = {"rates": {"policy_violations": {"n": 654, "value": 0.0}, "tool_exact": {"n": 78, "value": 0.6026}}}


@pytest.fixture
def built(build_package: Callable[..., Any], tmp_path: Path) -> Any:
    """A package, its evaluation, and the output of the stage `evaluate_assistant` in `assistant`."""
    table = pd.DataFrame({"system": ["base", "candidate"], "id": ["a", "a"], "label": ["kind", "kind"]})
    result = build_package(rows=table.assign(quality=[0.0, 1.0], exact_match=[False, True]))
    write_text(result.package / "adapter" / PICTURE, "a picture")
    manifest = read_manifest(result.package)
    data = {"source": "here", "training_rows": 2, "labels": {"kind": 2}, "files": {}}
    write_json(result.package / MANIFEST, manifest.model_copy(update={"data": data}).model_dump(mode="json"))
    write_json(tmp_path / "assistant/scores.json", RATES)
    return result


def test_evaluation_end_to_end_rates_curve_and_card_lie_together(built: Any, tmp_path: Path) -> None:
    target = tmp_path / "published"
    gather(built.package, built.evaluation, tmp_path / "assistant", target, GATE, SHEET.review_by)
    files = sha256_tree(target)
    assert sha256_tree(built.evaluation).items() <= files.items()
    assert set(files) == {"scores.json", "rows.parquet", "assistant.json", PICTURE, CARD}
    card = (target / CARD).read_text(encoding="utf-8")
    assert card == release_card(built.package, target, GATE, SHEET.review_by)
    lines = card.splitlines()
    assert "![Loss during training](loss.png)" in lines
    assert "| candidate |    1 | 1.000 (1.000 to 1.000)" in card
    assert "| kind | 1 | 1.000 (1.000 to 1.000) | 0.000 |" in lines
    assert {"| policy_violations | 654 | 0 |", "| tool_exact | 78 | 0.6026 |"} <= set(lines)


@pytest.mark.parametrize(("today", "old"), [(SHEET.review_by, False), (date(2026, 3, 1), True)])
def test_data_past_its_day_is_called_old(built: Any, tmp_path: Path, today: date, old: bool) -> None:
    gather(built.package, built.evaluation, tmp_path / "assistant", tmp_path / "published", GATE, today)
    card = (tmp_path / "published" / CARD).read_text(encoding="utf-8")
    sentence = "**The data is out of date: it was last updated on 2026-01-31 and was due for review by 2026-02-28"
    assert (sentence in card) == old


def test_missing_end_to_end_rates_are_an_error(built: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "assistant/scores.json", {})
    with pytest.raises(GraftError, match="no rates there; run the stage `evaluate_assistant`"):
        gather(built.package, built.evaluation, tmp_path / "assistant", tmp_path / "published", GATE, SHEET.review_by)
