"""Drift detection on synthetic features, with Evidently itself, whose import takes most of the time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.core.errors import GraftError
from tasks.core.settings import DriftSettings
from tasks.evaluation.response_features import CATEGORICAL, NUMERIC
from tasks.monitoring.drift import COLUMNS, compare, monitor, reference_path, thresholds, write_reference
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.monitoring.telemetry_store import TelemetryWriter
from tasks.registry.registry import LocalRegistry
from tests.support.hostile_text import HOSTILE

SETTINGS = DriftSettings(min_rows=30, window_hours=24, false_positive_rate=0.01, min_columns=2, resamples=100, seed=7)
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TOOLS = np.array(["find_order", "check_stock", "cancel_order", ""])


def features(n: int, seed: int, *, longer: float = 1.0) -> pd.DataFrame:
    """Features of `n` answers; `longer` scales the length of requests and answers."""
    generator = np.random.default_rng(seed)
    tool = generator.choice(TOOLS, n, p=[0.3, 0.15, 0.05, 0.5])
    user_chars = (np.exp(generator.normal(4.2, 0.5, n)) * longer).round().astype(int)
    completion_tokens = (generator.normal(35, 8, n) * longer).round().astype(int)
    return pd.DataFrame(
        {
            "user_chars": user_chars,
            "turns": 1,
            "prompt_tokens": 180 + user_chars // 4,
            "completion_tokens": completion_tokens,
            "answer_chars": np.where(tool == "", completion_tokens * 4, 0),
            "finish_reason": "stop",
            "tool_name": tool,
            "refused": generator.random(n) < 0.15,
            "valid_format": True,
        }
    )


ROOT = Path(__file__).parents[3]
REFERENCE = features(90, seed=1)


def test_unchanged_window_is_no_drift() -> None:
    verdict = compare(features(60, seed=2), REFERENCE, "abc", SETTINGS).verdict
    assert verdict.outcome == "no drift"
    assert (verdict.digest, verdict.n, verdict.n_reference) == ("abc", 60, 90)
    assert [column.column for column in verdict.columns] == list(COLUMNS)


def test_longer_conversations_are_drift_with_their_size_in_words() -> None:
    window = features(60, seed=3, longer=2.0)
    found = compare(window, REFERENCE, "abc", SETTINGS)
    assert found.verdict.outcome == "drift"
    columns = {column.column: column for column in found.verdict.columns}
    assert columns["user_chars"].over and columns["completion_tokens"].over
    assert not columns["refused"].over and not columns["turns"].over
    assert columns["user_chars"].reference == pytest.approx(REFERENCE["user_chars"].mean())
    assert columns["user_chars"].window == pytest.approx(window["user_chars"].mean())
    assert any(s.startswith("user_chars: the mean went from ") for s in found.verdict.sentences)
    assert "<html" in found.html and "Wasserstein" in found.html


def test_one_column_alone_is_named_but_is_no_drift() -> None:
    window = features(60, seed=2).assign(tool_name="refund")
    verdict = compare(window, REFERENCE, "abc", SETTINGS).verdict
    assert verdict.outcome == "no drift"
    [over] = [column for column in verdict.columns if column.over]
    assert (over.column, over.unseen, over.measure, over.window) == ("tool_name", ("refund",), "share of refund", 1.0)
    assert any("refund unseen in the reference" in sentence for sentence in verdict.sentences)


def test_a_name_that_a_model_made_up_is_not_in_the_page() -> None:
    """Rows of older versions have such names, and Evidently writes a category into a script as it is."""
    window = features(60, seed=2).assign(tool_name=HOSTILE)
    found = compare(window, REFERENCE, "abc", SETTINGS)
    assert [c.unseen for c in found.verdict.columns if c.column == "tool_name"] == [("(unlisted)",)]
    assert "alert(1)" not in found.html + found.verdict.model_dump_json()


def test_one_odd_answer_in_a_constant_column_is_no_alarm_but_many_are() -> None:
    """The reference does not contain `length`: one such answer is chance, a third of all is not."""
    window = features(60, seed=2)
    for odd, over in ((1, False), (20, True)):
        window.loc[: odd - 1, ["finish_reason", "turns"]] = ["length", 2]
        columns = {c.column: c for c in compare(window, REFERENCE, "abc", SETTINGS).verdict.columns}
        assert columns["finish_reason"].over is over
        assert columns["turns"].over is over


def test_missing_values_are_left_out_of_numbers_and_are_a_category() -> None:
    window = features(60, seed=2).astype({"user_chars": float, "refused": object})
    window.loc[:5, "user_chars"] = np.nan
    window.loc[:40, "refused"] = None
    window["turns"] = np.nan
    verdict = compare(window, REFERENCE, "abc", SETTINGS).verdict
    columns = {column.column: column for column in verdict.columns}
    assert columns["user_chars"].window == pytest.approx(window["user_chars"].mean())
    assert columns["refused"].unseen == ("(missing)",)
    assert "turns" not in columns
    assert "turns: not compared, one side has no value." in verdict.sentences


def test_thresholds_shrink_with_the_window_and_repeat() -> None:
    columns = ["user_chars", "tool_name"]
    small, again, large = (
        thresholds(features(n, seed=2)[columns], REFERENCE[columns], SETTINGS) for n in (40, 40, 400)
    )
    assert small == again
    assert all(large[column] < small[column] for column in columns)


def test_unchanged_windows_rarely_alarm() -> None:
    """A numeric and a categorical column, a fresh reference and window each time, with a false-positive rate of 5%."""
    columns = [NUMERIC[0], CATEGORICAL[1]]
    settings = SETTINGS.model_copy(update={"false_positive_rate": 0.05, "resamples": 39})
    alarms = 0
    for seed in range(40):
        reference, window = features(90, seed=1000 + seed)[columns], features(200, seed=2000 + seed)[columns]
        limits = thresholds(window, reference, settings)
        alarms += sum(distance(window[c], reference[c]) > limits[c] for c in columns)
    assert alarms <= 10  # of 80; 4 expected. Resampling the reference alone gives 42.


def distance(window: pd.Series, reference: pd.Series) -> float:
    """The textbook definitions, independent of Evidently's code."""
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import wasserstein_distance

    if window.name in NUMERIC:
        return float(wasserstein_distance(reference, window) / reference.std(ddof=0))
    categories = sorted(set(reference) | set(window))
    shares = [side.value_counts(normalize=True).reindex(categories, fill_value=0.0) for side in (reference, window)]
    return float(jensenshannon(*shares))


def test_too_few_answers_are_inconclusive_and_do_not_import_evidently() -> None:
    code = (
        "import sys, pandas; from tests.tasks.monitoring.test_drift import *\n"
        "found = compare(features(29, seed=2), REFERENCE, 'abc', SETTINGS)\n"
        "assert found.verdict.outcome == 'inconclusive' and not found.verdict.columns\n"
        "assert 'Only 29 answers' in found.verdict.sentences[0] and 'Only 29 answers' in found.html\n"
        "assert 'evidently' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def serve(
    rows: pd.DataFrame,
    digest: str,
    *,
    status: int = 200,
    at: datetime = NOW - timedelta(hours=1),
    operation: str = "chat",
    owner: str = "",
    model_called: bool = True,
) -> None:
    """Write rows to the telemetry store as the assistant does; rows with another status than 200 have no features.

    Rows of turns that did not reach the model (`model_called`) have none either.
    """
    writer = TelemetryWriter(rows_per_part=1000)
    for index, row in enumerate(rows.to_dict("records")):
        measured = row if status == 200 and model_called else {}
        common = {
            "trace_id": f"{operation}-{digest}-{status}-{at}-{index}",
            "at": at,
            "error": "",
            "stream": False,
            "operation": operation,
            "owner": owner,
        }
        writer.append(TelemetryRow(digest=digest, status=status, latency_ms=5.0, **common, **measured))
    writer.close()


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build_package: Callable[..., Any]) -> LocalRegistry:
    """A registry whose production channel points at a package evaluated on `REFERENCE`."""
    monkeypatch.chdir(tmp_path)
    others = features(90, seed=9, longer=3.0).assign(system="base")
    built = build_package(rows=pd.concat([others, REFERENCE.assign(system="candidate")]))
    registry = LocalRegistry()
    registry.swap("production", registry.publish(built.package, built.base, built.evaluation), None, "test")
    return registry


def test_monitor_compares_only_what_production_answered_and_keeps_the_result(production: LocalRegistry) -> None:
    digest = production.channel().digest
    serve(features(40, seed=2), digest)
    serve(features(50, seed=3, longer=3.0), "another")
    serve(features(50, seed=4, longer=3.0), digest, at=NOW - timedelta(hours=25))
    serve(features(50, seed=5), digest, status=429)
    serve(features(50, seed=6, longer=3.0), digest, operation="text_completion")
    serve(features(50, seed=7, longer=3.0), digest, owner="redteam")
    serve(features(50, seed=8), digest, model_called=False)
    serve(features(50, seed=9, longer=3.0), digest, operation="shadow")
    verdict, folder = monitor(production, SETTINGS, NOW)
    assert (verdict.outcome, verdict.n, verdict.n_reference) == ("no drift", 40, 90)
    assert folder == Path(".graft/reports/drift/2026-01-31T12-00-00Z")
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "verdict.json"]
    assert json.loads((folder / "verdict.json").read_text()) == verdict.model_dump(mode="json")


def test_monitor_of_a_quiet_day_is_inconclusive(production: LocalRegistry) -> None:
    verdict, folder = monitor(production, SETTINGS, NOW)
    assert (verdict.outcome, verdict.n) == ("inconclusive", 0)
    assert "Only 0 answers" in (folder / "report.html").read_text()


def test_reference_is_the_candidates_features_alone(production: LocalRegistry) -> None:
    path = write_reference(production.channel().digest, production)
    assert path == reference_path(production.channel().digest)
    pd.testing.assert_frame_equal(pd.read_parquet(path), REFERENCE, check_dtype=False)


def test_nothing_to_watch_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraftError, match="run `graft run` first"):
        monitor(LocalRegistry(), SETTINGS, NOW)
    with pytest.raises(GraftError, match="no evaluation of this package"):
        write_reference("0" * 64, LocalRegistry())
