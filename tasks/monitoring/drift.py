"""Drift detection: compares production's requests and answers with those that the gate evaluated.

Drift detection is read-only. The reference is the candidate's own evaluation rows, kept at promotion; the
window (Evidently's current data) is the answers that the same package served. Evidently measures one distance
per column. The distance that chance alone explains depends on both sample sizes, so each column's threshold is
measured: without a change, reference and window are one population, and any split of it into samples of these
sizes is as likely as the observed one (a permutation test: Fisher, 1935; Good, Permutation Tests, 2000).
Resampling the reference alone would ignore that a reference of some ninety rows is itself a sample, which does
not contain the rare categories, and would alarm on most unchanged windows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from tasks.core.errors import GraftError
from tasks.core.files import new_folder, write_bytes, write_json, write_text
from tasks.core.paths import REPORTS
from tasks.core.records import Record
from tasks.core.settings import DriftSettings
from tasks.evaluation.outputs import CANDIDATE, ROWS
from tasks.evaluation.response_features import CATEGORICAL, NUMERIC
from tasks.monitoring.telemetry_row import REDTEAM_OWNER, allowed
from tasks.monitoring.telemetry_store import read_window
from tasks.registry.registry import PRODUCTION, Registry

if TYPE_CHECKING:
    # Types of Evidently's own statistics, see `_statistic`; without them mypy fails, and nothing else.
    from evidently.legacy.calculations.stattests.registry import StatTest
    from evidently.legacy.core import ColumnType

COLUMNS = (*NUMERIC, *CATEGORICAL)
EMPTY, MISSING = "(none)", "(missing)"
# Evidently alarms at its threshold already, so a constant column (threshold 0, distance 0) would always
# alarm; equal distances may also differ in their last bits.
_MARGIN = 1e-9


class DriftColumn(Record):
    """The drift of one column: Evidently's distance, the distance that chance explains, and the effect."""

    column: str
    """The column's name."""
    statistic: str
    """The distance's name in Evidently."""
    value: float
    """The distance of window and reference."""
    threshold: float
    """The distance that chance explains."""
    over: bool
    """Whether the distance is above the threshold."""
    measure: str
    """The quantity of `reference` and `window`: a mean, or the share of the category whose share changed most."""
    reference: float
    """The measure in the reference, in the column's unit, or a share in [0, 1]."""
    window: float
    """The measure in the window, in the column's unit, or a share in [0, 1]."""
    unseen: tuple[str, ...] = ()
    """Categories in the window that the reference does not contain."""

    def sentence(self) -> str:
        """The change in words."""
        change = f"{self.column}: the {self.measure} went from {self.reference:.3g} to {self.window:.3g}"
        new = f", with {', '.join(self.unseen)} unseen in the reference" if self.unseen else ""
        return f"{change}{new} ({self.statistic} {self.value:.3f}; chance explains up to {self.threshold:.3f})."


class DriftVerdict(Record):
    """The verdict on a window of served answers against the evaluated ones."""

    outcome: Literal["drift", "no drift", "inconclusive"]
    """The verdict; it is inconclusive with fewer than `drift.min_rows` answers."""
    digest: str
    """The package that served the answers."""
    n: int
    """The number of answers in the window."""
    n_reference: int
    """The number of rows in the reference."""
    columns: tuple[DriftColumn, ...]
    """The compared columns; empty if inconclusive."""
    sentences: tuple[str, ...]
    """The verdict's reasons in words."""


@dataclass(frozen=True)
class DriftReport:
    """A verdict and its HTML page."""

    verdict: DriftVerdict
    """The verdict."""
    html: str
    """Evidently's self-contained report, or a plain page if no comparison was made."""


def reference_path(digest: str) -> Path:
    """The path of a package's drift reference."""
    return REPORTS / "reference" / f"{digest}.parquet"


def write_reference(digest: str, registry: Registry) -> Path:
    """Store the features of a published package's own evaluation as the reference for its served answers.

    Raises:
        GraftError: the registry has no evaluation of the package, or one without the candidate's rows.
    """
    source = registry.evaluation(digest) / ROWS
    if not source.is_file():
        raise GraftError(f"{source}: no evaluation of this package; publish it again with `graft run`")
    rows = pd.read_parquet(source)
    chosen = rows.loc[rows["system"] == CANDIDATE, list(COLUMNS)].reset_index(drop=True)
    if chosen.empty:
        raise GraftError(f"{source}: none of its rows is the candidate's; publish it again with `graft run`")
    write_bytes(reference_path(digest), chosen.to_parquet(index=False))
    return reference_path(digest)


def compare(window: pd.DataFrame, reference: pd.DataFrame, digest: str, settings: DriftSettings) -> DriftReport:
    """Compare served answers with evaluated ones, column by column (see `tasks.evaluation.response_features`).

    A column without any value on one side is named and excluded. Importing Evidently takes some ten seconds,
    so it is imported only if there are enough rows.

    Args:
        window: the served answers, a row each, with the columns `COLUMNS`.
        reference: the evaluated answers, with the same columns.
        digest: the package that served the answers.
        settings: the section `drift` of `params.yaml`.
    """
    n, n_reference = len(window), len(reference)
    if n < settings.min_rows:
        sentence = f"Only {n} answers were served in the window; a comparison needs at least {settings.min_rows}."
        verdict = DriftVerdict(
            outcome="inconclusive", digest=digest, n=n, n_reference=n_reference, columns=(), sentences=(sentence,)
        )
        return DriftReport(verdict, _plain_page(verdict))
    window, reference = _clean(window), _clean(reference)
    columns = [c for c in COLUMNS if window[c].notna().any() and reference[c].notna().any()]
    limits = thresholds(window[columns], reference[columns], settings)
    columns_compared, html = _evidently(window[columns], reference[columns], limits)
    drifted_columns = [column for column in columns_compared if column.over]
    drifted = len(drifted_columns) >= settings.min_columns
    sentences = [
        f"{len(drifted_columns)} of {len(columns_compared)} columns are farther from the reference than "
        f"chance explains ({n} answers against {n_reference}); {settings.min_columns} make a drift.",
        *(column.sentence() for column in drifted_columns),
        *(f"{c}: not compared, one side has no value." for c in COLUMNS if c not in columns),
    ]
    verdict = DriftVerdict(
        outcome="drift" if drifted else "no drift",
        digest=digest,
        n=n,
        n_reference=n_reference,
        columns=tuple(columns_compared),
        sentences=tuple(sentences),
    )
    return DriftReport(verdict, html)


def thresholds(window: pd.DataFrame, reference: pd.DataFrame, settings: DriftSettings) -> dict[str, float]:
    """Per column the distance that unchanged data exceed with probability `false_positive_rate`.

    The rows of both sides are pooled and split at random into samples of their sizes, `resamples` times;
    the threshold is the (1 - `false_positive_rate`) quantile of Evidently's distance between the two samples.
    """
    generator = np.random.default_rng(settings.seed)
    limits: dict[str, float] = {}
    for column in window.columns:
        statistic, kind = _statistic(column)
        sides = reference[column].dropna(), window[column].dropna()
        pool = pd.concat(sides, ignore_index=True)
        if column in CATEGORICAL:
            pool = pd.Series(pd.factorize(pool)[0])  # numbers are counted faster, with the same result
        values, size = pool.to_numpy(), len(sides[0])
        distances = []
        for _ in range(settings.resamples):
            shuffled = generator.permutation(values)
            samples = pd.Series(shuffled[:size]), pd.Series(shuffled[size:])
            distances.append(float(statistic(*samples, feature_type=kind, threshold=None).drift_score))
        limits[column] = float(np.quantile(distances, 1 - settings.false_positive_rate, method="higher")) + _MARGIN
    return limits


def _statistic(column: str) -> tuple[StatTest, ColumnType]:
    """Evidently's distance for a column: normed Wasserstein for numbers, Jensen-Shannon for categories."""
    os.environ["DO_NOT_TRACK"] = "1"  # read when Evidently is imported
    # Evidently offers its distances alone only here. Without them thresholds cannot be measured on
    # reshuffled rows, and the false-positive rate of drift is no longer the one in params.yaml.
    from evidently.legacy.calculations.stattests import jensenshannon_stat_test, wasserstein_stat_test
    from evidently.legacy.core import ColumnType

    if column in NUMERIC:
        return wasserstein_stat_test, ColumnType.Numerical
    return jensenshannon_stat_test, ColumnType.Categorical


def _evidently(
    window: pd.DataFrame, reference: pd.DataFrame, limits: Mapping[str, float]
) -> tuple[list[DriftColumn], str]:
    """Evidently's report over all columns at the thresholds `limits`: the column results, and the HTML page."""
    methods = {column: _statistic(column)[0].name for column in limits}
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    definition = DataDefinition(
        numerical_columns=[c for c in limits if c in NUMERIC],
        categorical_columns=[c for c in limits if c in CATEGORICAL],
    )
    metrics = [ValueDrift(column=c, method=methods[c], threshold=limit) for c, limit in limits.items()]
    snapshot = Report(metrics, include_tests=True).run(
        Dataset.from_pandas(window, definition), Dataset.from_pandas(reference, definition)
    )
    result = snapshot.dict()
    values = {metric["config"]["column"]: float(metric["value"]) for metric in result["metrics"]}
    failed = {t.metric_config.params["column"] for t in snapshot.tests_results if t.status.value == "FAIL"}
    columns = [
        _describe(window[c], reference[c], statistic=methods[c], value=values[c], threshold=limit, over=c in failed)
        for c, limit in limits.items()
    ]
    return columns, snapshot.get_html_str(as_iframe=False)


def _describe(
    window: pd.Series, reference: pd.Series, *, statistic: str, value: float, threshold: float, over: bool
) -> DriftColumn:
    """The result of one column, with the effect in plain words.

    Args:
        window: the column's values in the window.
        reference: the column's values in the reference.
        statistic: the distance's name in Evidently.
        value: the distance.
        threshold: the distance that chance explains.
        over: whether Evidently's test failed.
    """
    column = str(window.name)
    unseen: tuple[str, ...] = ()
    if column in NUMERIC:
        measure, before, after = "mean", float(reference.mean()), float(window.mean())
    else:
        before_shares, after_shares = _shares(reference), _shares(window)
        changes = {
            name: abs(after_shares.get(name, 0.0) - before_shares.get(name, 0.0))
            for name in sorted(before_shares.keys() | after_shares.keys())
        }
        largest = max(changes, key=lambda name: changes[name])
        measure = f"share of {largest}"
        before, after = before_shares.get(largest, 0.0), after_shares.get(largest, 0.0)
        unseen = tuple(sorted(after_shares.keys() - before_shares.keys()))
    return DriftColumn(
        column=column,
        statistic=statistic,
        value=value,
        threshold=threshold,
        over=over,
        measure=measure,
        reference=before,
        window=after,
        unseen=unseen,
    )


def _shares(categories: pd.Series) -> dict[str, float]:
    return {str(name): float(share) for name, share in categories.value_counts(normalize=True).items()}


def _clean(rows: pd.DataFrame) -> pd.DataFrame:
    """The feature columns in Evidently's types: floats with NaN, and text in which a missing value is a category."""

    def category(value: object) -> str:
        # Rows of version 0.1 hold names that a model made up.
        return MISSING if pd.isna(value) else allowed(str(value)) or EMPTY  # type: ignore[call-overload]

    numeric = {c: pd.to_numeric(rows[c]).astype(float) for c in NUMERIC}
    return pd.DataFrame({**numeric, **{c: rows[c].map(category).astype(object) for c in CATEGORICAL}})


def _plain_page(verdict: DriftVerdict) -> str:
    text = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict.sentences)
    return f"<!doctype html><meta charset=utf-8><title>Drift: {verdict.outcome}</title><h1>{verdict.outcome}</h1>{text}"


def monitor(registry: Registry, settings: DriftSettings, now: datetime) -> tuple[DriftVerdict, Path]:
    """Compare the last `window_hours` of production's answers with its reference; return verdict and report folder.

    The window contains chat answers with status 200 of the package in production, and only answers of the
    model: it excludes requests that an input check refused, and the requests of `graft redteam` with a key of
    its own. The folder contains `verdict.json` and `report.html`.

    Raises:
        GraftError: no package is in production yet, or its evaluation is missing.
    """
    production = registry.channel(PRODUCTION)
    if production is None:
        raise GraftError("no package is in production yet, so there are no answers to compare; run `graft run` first")
    path = reference_path(production.digest)
    if not path.is_file():
        write_reference(production.digest, registry)
    served = read_window(now - timedelta(hours=settings.window_hours), now)
    chat = served["operation"].fillna("chat") == "chat"
    answered = (served["status"] == 200) & (served["digest"] == production.digest) & served["user_chars"].notna()
    current = served[chat & answered & (served["owner"] != REDTEAM_OWNER)]
    report = compare(current, pd.read_parquet(path), production.digest, settings)
    target = REPORTS / "drift" / now.astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    with new_folder(target) as folder:
        write_json(folder / "verdict.json", report.verdict.model_dump(mode="json"))
        write_text(folder / "report.html", report.html)
    return report.verdict, target
