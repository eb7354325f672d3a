"""The gate: is the candidate good enough to be released? It judges; it releases nothing.

Systems answered the same rows, so they are compared row by row: rows are drawn with replacement,
the mean difference of each draw is taken, and the middle share of those means is the interval (the
paired percentile bootstrap: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13;
Koehn, Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.errors import GraftError
from tasks.rates import Rate
from tasks.records import Record
from tasks.settings import GateSettings, Limit

BASE, INCUMBENT, CANDIDATE = "base", "incumbent", "candidate"
Outcome = Literal["pass", "fail", "inconclusive"]
_COLUMNS = ("system", "id", "label", "quality", "valid_format")
_BY_SEVERITY: tuple[Outcome, ...] = ("pass", "inconclusive", "fail")


class Comparison(Record):
    """The candidate's quality less another system's, on the same `n` rows; all in [-1, 1].

    `label` is empty where all rows count. `low` to `high` is the bootstrap interval of `difference`.
    """

    against: str
    label: str
    n: int
    candidate: float
    other: float
    difference: float
    low: float
    high: float


class Verdict(Record):
    """The judgement, one sentence per rule (the serious first), and the numbers behind it."""

    outcome: Outcome
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def interval(differences: NDArray[np.float64], settings: GateSettings) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `differences` [n]: its low and high end."""
    generator = np.random.default_rng(settings.seed)
    drawn = generator.integers(len(differences), size=(settings.resamples, len(differences)))  # [resamples, n]
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(differences[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def judge(rows: pd.DataFrame, rates: Mapping[str, Rate], settings: GateSettings) -> Verdict:
    """Judge the candidate's evaluation rows against the base's and the incumbent's, and its whole turns.

    The worst outcome of all rules is the verdict's. With fewer than `min_rows` rows no comparison is
    made: an interval over a handful of rows looks surer than it is. The limits hold for however few
    rows a rate is of, as long as there are any.

    Args:
        rows: one row per (system, example) with at least `system`, `id`, `label`, `quality` in
            [0, 1] and `valid_format`.
        rates: what the stage `assistant` measured, by name.

    Raises:
        GraftError: a column or a system is missing, a quality is not in [0, 1], the systems did not
            answer the same rows, or a rate that has a limit was not measured.
    """
    systems = _split(rows)
    candidate = systems.pop(CANDIDATE)
    comparisons = [
        _compare(candidate, other, name, label, settings)
        for name, other in systems.items()
        for label in ["", *sorted(candidate["label"].unique())]
    ]
    verdicts = [_enough_rows(len(candidate), settings)]
    if len(candidate) >= settings.min_rows:
        verdicts += [_quality(c, settings) for c in comparisons if not c.label]
        verdicts.append(_format(float(candidate["valid_format"].mean()), settings))
    verdicts += [_limited(name, _rate(name, rates), limit) for name, limit in settings.limits.items()]
    verdicts.sort(key=lambda v: -_BY_SEVERITY.index(v[0]))
    return Verdict(
        outcome=verdicts[0][0], reasons=tuple(sentence for _, sentence in verdicts), comparisons=tuple(comparisons)
    )


def _split(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each system, indexed by id in one order, after checking that they can be paired."""
    if absent := [column for column in _COLUMNS if column not in rows]:
        raise GraftError(f"evaluation rows: no column {', '.join(absent)}; run the stage `evaluate` again")
    quality = pd.to_numeric(rows["quality"], errors="coerce")
    if not quality.between(0, 1).all():
        where = rows.loc[~quality.between(0, 1), "id"].iloc[0]
        raise GraftError(f"evaluation rows: the quality of row {where} is not a number from 0 to 1")
    systems = {
        name: rows[rows["system"] == name].set_index("id").sort_index()
        for name in (BASE, INCUMBENT, CANDIDATE)
        if (rows["system"] == name).any() or name != INCUMBENT
    }
    for name, found in systems.items():
        if found.empty:
            raise GraftError(f"evaluation rows: none of the system {name}; run the stage `evaluate` again")
        if not found.index.is_unique:
            raise GraftError(f"evaluation rows: {name} answered row {found.index[found.index.duplicated()][0]} twice")
        if differing := sorted(set(found.index) ^ set(systems[BASE].index)):
            raise GraftError(
                f"evaluation rows: {name} and {BASE} did not answer the same rows ({len(differing)} differ, "
                f"such as {differing[0]}); run the stage `evaluate` again"
            )
    return systems


def _compare(
    candidate: pd.DataFrame, other: pd.DataFrame, against: str, label: str, settings: GateSettings
) -> Comparison:
    ids = candidate.index[candidate["label"] == label] if label else candidate.index
    ours = candidate.loc[ids, "quality"].to_numpy(dtype=np.float64)
    theirs = other.loc[ids, "quality"].to_numpy(dtype=np.float64)
    low, high = interval(ours - theirs, settings)
    return Comparison(
        against=against,
        label=label,
        n=len(ours),
        candidate=float(ours.mean()),
        other=float(theirs.mean()),
        difference=float((ours - theirs).mean()),
        low=low,
        high=high,
    )


def _enough_rows(n: int, settings: GateSettings) -> tuple[Outcome, str]:
    if n < settings.min_rows:
        return "inconclusive", f"Only {n} rows were evaluated; a judgement needs at least {settings.min_rows}."
    return "pass", f"{n} rows were evaluated; at least {settings.min_rows} are needed."


def _quality(found: Comparison, settings: GateSettings) -> tuple[Outcome, str]:
    """The rule for the base asks for a gain, the one for the incumbent for no more than a small loss."""
    if found.against == BASE:
        line, wish = settings.min_gain, f"the required gain of {settings.min_gain:+.3f}"
    else:
        line, wish = -settings.max_loss, f"the tolerated loss of {-settings.max_loss:+.3f}"
    outcome: Outcome = "pass" if found.low > line else "fail" if found.high < line else "inconclusive"
    place = {
        "pass": f"all of it above {wish}",
        "fail": f"all of it below {wish}",
        "inconclusive": f"so it cannot be told from {wish}; more eval rows would narrow it",
    }[outcome]
    return outcome, (
        f"Quality is {found.candidate:.3f} against the {found.against}'s {found.other:.3f}, a difference of "
        f"{found.difference:+.3f} ({settings.confidence:.0%} interval {found.low:+.3f} to {found.high:+.3f}, "
        f"{found.n} rows): {place}."
    )


def _format(share: float, settings: GateSettings) -> tuple[Outcome, str]:
    if share < settings.min_valid_format:
        return "fail", f"{share:.1%} of the answers can be parsed; at least {settings.min_valid_format:.1%} must."
    return "pass", f"{share:.1%} of the answers can be parsed; at least {settings.min_valid_format:.1%} must."


def _rate(name: str, rates: Mapping[str, Rate]) -> Rate:
    if name not in rates:
        raise GraftError(f"gate.limits.{name}: the stage `assistant` measured no such rate; run it again")
    return rates[name]


def _limited(name: str, rate: Rate, limit: Limit) -> tuple[Outcome, str]:
    """The rule for a rate of whole turns."""
    if not rate.n or rate.value is None:
        return "pass", f"There are no rows for {name}, so its limit does not apply."
    low, high = limit.get("min"), limit.get("max")
    bounds = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
    kept = (low is None or rate.value >= low) and (high is None or rate.value <= high)
    wish = " and ".join(filter(None, bounds))
    return "pass" if kept else "fail", f"Whole turns: {name} is {rate.value:.4g} ({rate.n} rows); {wish} is required."


def markdown(verdict: Verdict) -> str:
    """The verdict as a page for people: outcome, reasons, and a table over all rows and per label."""
    lines = [f"# Gate: {verdict.outcome}", "", *(f"- {reason}" for reason in verdict.reasons)]
    head = "| {} | n | candidate | other | difference | low | high |"
    for title, first, chosen in (
        ("All rows", "against", [c for c in verdict.comparisons if not c.label]),
        ("Per label, for reading only", "against, label", [c for c in verdict.comparisons if c.label]),
    ):
        lines += ["", f"## {title}", "", head.format(first), "| --- |" + " ---: |" * 6]
        lines += [
            f"| {', '.join(filter(None, (c.against, c.label)))} | {c.n} | {c.candidate:.3f} | {c.other:.3f} "
            f"| {c.difference:+.3f} | {c.low:+.3f} | {c.high:+.3f} |"
            for c in chosen
        ]
    return "\n".join(lines) + "\n"
