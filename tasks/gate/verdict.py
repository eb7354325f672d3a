"""The verdict of the eval gate: is the candidate good enough to be released? It judges and releases nothing.

Its rules, in order: enough rows; better than the base and not inferior to the incumbent (here, by the
paired bootstrap); minimum quality and format (here); no slice lost (`tasks/gate/slices.py`); no efficiency
regression (`tasks/gate/efficiency.py`); the rates of the end-to-end evaluation within their limits (here).
The gate's own error rates are in `tasks/gate/error_rates.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from tasks.core.errors import GraftError
from tasks.core.records import Record
from tasks.core.settings import GateSettings, Limit
from tasks.evaluation.outputs import BASE, CANDIDATE, INCUMBENT, Rate
from tasks.gate import efficiency, slices
from tasks.gate.comparison import Comparison, GateOutcome, RuleFinding, compare, quality
from tasks.gate.efficiency import EfficiencyComparison, compare_efficiency
from tasks.gate.slices import compare_slices
from tasks.text.markdown import escape

_COLUMNS = ("system", "id", "quality", "valid_format", *slices.COLUMNS, *efficiency.COLUMNS)
_BY_SEVERITY: tuple[GateOutcome, ...] = ("pass", "inconclusive", "fail")


class GateVerdict(Record):
    """The verdict of the gate with its reasons and the numbers behind them."""

    outcome: GateOutcome
    """The worst result of all rules."""
    reasons: tuple[str, ...]
    """One sentence per rule, failures first."""
    comparisons: tuple[Comparison, ...]
    """Comparisons of quality over all rows and per slice, with each other system."""
    efficiency: tuple[EfficiencyComparison, ...]
    """Comparisons of efficiency with the incumbent, or with the base where there is none."""


def decide_gate(rows: pd.DataFrame, rates: Mapping[str, Rate], settings: GateSettings) -> GateVerdict:
    """Judge the candidate's evaluation rows against the base's and the incumbent's, and its end-to-end rates.

    The worst result of all rules is the verdict's. With fewer than `min_rows` rows none of the rules over
    rows applies, because an interval over a handful of rows is narrower than it should be. The limits of
    rates apply for any number of rows above 0.

    Args:
        rows: one row per (system, example) with at least `system`, `id`, `quality` in [0, 1],
            `valid_format`, the columns of slices (`tasks.gate.slices.COLUMNS`) and of efficiency
            (`tasks.gate.efficiency.COLUMNS`).
        rates: rates of the stage `evaluate_assistant`, by name.
        settings: the section `gate` of params.yaml.

    Raises:
        GraftError: a column or a system is missing, a quality is not in [0, 1], a time or a memory is
            not above 0, the systems did not answer the same rows, or a rate that has a limit was not
            measured.
    """
    systems = _split(rows)
    candidate = systems.pop(CANDIDATE)
    overall = [compare(quality(candidate), quality(other), name, "", settings) for name, other in systems.items()]
    by_slice, slice_findings = compare_slices(candidate, systems, settings)
    reference = INCUMBENT if INCUMBENT in systems else BASE
    efficiency_comparisons, efficiency_findings = compare_efficiency(candidate, systems[reference], reference, settings)
    findings = [_enough_rows(len(candidate), settings)]
    if len(candidate) >= settings.min_rows:
        findings += [_quality(comparison, settings) for comparison in overall]
        findings += [*_minimums(candidate, settings), *slice_findings, *efficiency_findings]
    findings += [_check_limit(name, _rate(name, rates), limit) for name, limit in settings.limits.items()]
    findings.sort(key=lambda finding: -_BY_SEVERITY.index(finding[0]))
    return GateVerdict(
        outcome=findings[0][0],
        reasons=tuple(sentence for _, sentence in findings),
        comparisons=(*overall, *by_slice),
        efficiency=tuple(efficiency_comparisons),
    )


def _split(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each system, indexed by id in one order, after a check that they can be paired."""
    if missing := [column for column in _COLUMNS if column not in rows]:
        raise GraftError(f"evaluation rows: no column {', '.join(missing)}; run the stage `evaluate` again")
    values = pd.to_numeric(rows["quality"], errors="coerce")
    if not values.between(0, 1).all():
        row = rows.loc[~values.between(0, 1), "id"].iloc[0]
        raise GraftError(
            f"evaluation rows: the quality of row {row} is not a number from 0 to 1; run the stage `evaluate` again"
        )
    systems = {
        name: rows[rows["system"] == name].set_index("id").sort_index()
        for name in (BASE, INCUMBENT, CANDIDATE)
        if (rows["system"] == name).any() or name != INCUMBENT
    }
    for name, table in systems.items():
        if table.empty:
            raise GraftError(f"evaluation rows: none of the system {name}; run the stage `evaluate` again")
        if not table.index.is_unique:
            raise GraftError(
                f"evaluation rows: {name} answered row {table.index[table.index.duplicated()][0]} twice; "
                "run the stage `evaluate` again"
            )
        if differing := sorted(set(table.index) ^ set(systems[BASE].index)):
            raise GraftError(
                f"evaluation rows: {name} and {BASE} did not answer the same rows ({len(differing)} differ, "
                f"such as {differing[0]}); run the stage `evaluate` again"
            )
    return systems


def _enough_rows(n: int, settings: GateSettings) -> RuleFinding:
    if n < settings.min_rows:
        return "inconclusive", f"Only {n} rows were evaluated; a verdict needs at least {settings.min_rows}."
    return "pass", f"{n} rows were evaluated; at least {settings.min_rows} are needed."


def _quality(comparison: Comparison, settings: GateSettings) -> RuleFinding:
    """The rule for the base requires a gain, the one for the incumbent is non-inferiority (at most a small loss)."""
    if comparison.against == BASE:
        limit, requirement = settings.min_gain, f"the required gain of {settings.min_gain:+.3f}"
    else:
        limit = -settings.non_inferiority_margin
        requirement = f"the tolerated loss of {limit:+.3f}"
    outcome: GateOutcome = "pass" if comparison.low > limit else "fail" if comparison.high < limit else "inconclusive"
    conclusion = {
        "pass": f"all of it above {requirement}",
        "fail": f"all of it below {requirement}",
        "inconclusive": f"it includes {requirement}; more eval rows would narrow it",
    }[outcome]
    if comparison.against == INCUMBENT and outcome == "pass":
        conclusion += ", and above 0: it is better" if comparison.better else "; it is not shown to be better"
    return outcome, (
        f"Quality is {comparison.candidate:.3f} against the {comparison.against}'s {comparison.other:.3f}, a "
        f"difference of {comparison.difference:+.3f} ({settings.confidence:.0%} interval {comparison.low:+.3f} to "
        f"{comparison.high:+.3f}, {comparison.n} rows): {conclusion}."
    )


def _minimums(candidate: pd.DataFrame, settings: GateSettings) -> list[RuleFinding]:
    """The minimum quality and format that every candidate must reach, whatever the other systems do."""
    mean, parsed = float(quality(candidate).mean()), float(candidate["valid_format"].mean())
    return [
        (
            "pass" if mean >= settings.min_quality else "fail",
            f"Quality is {mean:.3f}; at least {settings.min_quality:.3f} is required of every candidate.",
        ),
        (
            "pass" if parsed >= settings.min_valid_format else "fail",
            f"{parsed:.1%} of the answers can be parsed; at least {settings.min_valid_format:.1%} must.",
        ),
    ]


def _rate(name: str, rates: Mapping[str, Rate]) -> Rate:
    if name not in rates:
        raise GraftError(f"gate.limits.{name}: the stage `evaluate_assistant` measured no such rate; run it again")
    return rates[name]


def _check_limit(name: str, rate: Rate, limit: Limit) -> RuleFinding:
    """The rule for a rate of the end-to-end evaluation."""
    if not rate.n or rate.value is None:
        return "pass", f"There are no rows for {name}, so its limit does not apply."
    low, high = limit.get("min"), limit.get("max")
    bounds = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
    within = (low is None or rate.value >= low) and (high is None or rate.value <= high)
    requirement = " and ".join(filter(None, bounds))
    sentence = f"End-to-end: {name} is {rate.value:.4g} ({rate.n} rows); {requirement} is required."
    return "pass" if within else "fail", sentence


def markdown(verdict: GateVerdict) -> str:
    """The verdict as a Markdown report: outcome, reasons, and tables over all rows, per slice and of efficiency."""
    lines = [f"# Gate: {verdict.outcome}", "", *(f"- {escape(reason)}" for reason in verdict.reasons)]
    header = "| {} | n | candidate | other | difference | low | high |"
    for title, first, comparisons in (
        ("All rows", "against", [c for c in verdict.comparisons if not c.slice]),
        (
            "Per slice, without correction for multiple tests",
            "against, slice",
            [c for c in verdict.comparisons if c.slice],
        ),
    ):
        lines += ["", f"## {title}", "", header.format(first), "| --- |" + " ---: |" * 6]
        lines += [
            f"| {escape(', '.join(filter(None, (c.against, c.slice))))} | {c.n} | {c.candidate:.3f} | {c.other:.3f} "
            f"| {c.difference:+.3f} | {c.low:+.3f} | {c.high:+.3f} |"
            for c in comparisons
        ]
    header = "| metric, against | candidate | other | ratio | low | high |"
    lines += ["", "## Efficiency", "", header, "| --- |" + " ---: |" * 5]
    lines += [
        f"| {escape(f'{c.name}, {c.against}')} | {c.candidate:.1f} | {c.other:.1f} "
        f"| {c.ratio:.2f} | {c.low:.2f} | {c.high:.2f} |"
        for c in verdict.efficiency
    ]
    return "\n".join(lines) + "\n"
