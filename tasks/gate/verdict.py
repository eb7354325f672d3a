"""The gate: is the candidate good enough to be released? It judges; it releases nothing.

Its rules are an order of questions: enough rows; better than the base and not worse than the
incumbent (here, by the paired bootstrap); floors of its own (here); no kind of request that it lost
(`tasks/gate/slices.py`); not much slower or larger (`tasks/gate/efficiency.py`); whole turns within their limits
(here). How often it errs is in `tasks/gate/error_rates.py`.
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

_COLUMNS = ("system", "id", "quality", "valid_format", *slices.COLUMNS, *efficiency.COLUMNS)
_BY_SEVERITY: tuple[GateOutcome, ...] = ("pass", "inconclusive", "fail")


class GateVerdict(Record):
    """The judgement, one sentence per rule (the serious first), and the numbers behind it."""

    outcome: GateOutcome
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    efficiency: tuple[EfficiencyComparison, ...]


def decide_gate(rows: pd.DataFrame, rates: Mapping[str, Rate], settings: GateSettings) -> GateVerdict:
    """Judge the candidate's evaluation rows against the base's and the incumbent's, and its whole turns.

    The worst outcome of all rules is the verdict's. With fewer than `min_rows` rows none of the rules
    for them is asked: an interval over a handful of rows looks surer than it is. The limits hold for
    however few rows a rate is of, as long as there are any.

    Args:
        rows: one row per (system, example) with at least `system`, `id`, `quality` in [0, 1],
            `valid_format`, what slices are cut by (`tasks.gate.slices.COLUMNS`) and what was spent
            (`tasks.gate.efficiency.COLUMNS`).
        rates: what the stage `evaluate_assistant` measured, by name.

    Raises:
        GraftError: a column or a system is missing, a quality is not in [0, 1], a time or a memory is
            not above 0, the systems did not answer the same rows, or a rate that has a limit was not
            measured.
    """
    systems = _split(rows)
    candidate = systems.pop(CANDIDATE)
    overall = [compare(quality(candidate), quality(other), name, "", settings) for name, other in systems.items()]
    by_slice, of_slices = compare_slices(candidate, systems, settings)
    last = INCUMBENT if INCUMBENT in systems else BASE
    spent, of_costs = compare_efficiency(candidate, systems[last], last, settings)
    findings = [_enough_rows(len(candidate), settings)]
    if len(candidate) >= settings.min_rows:
        findings += [_quality(found, settings) for found in overall]
        findings += [*_floors(candidate, settings), *of_slices, *of_costs]
    findings += [_limited(name, _rate(name, rates), limit) for name, limit in settings.limits.items()]
    findings.sort(key=lambda finding: -_BY_SEVERITY.index(finding[0]))
    return GateVerdict(
        outcome=findings[0][0],
        reasons=tuple(sentence for _, sentence in findings),
        comparisons=(*overall, *by_slice),
        efficiency=tuple(spent),
    )


def _split(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each system, indexed by id in one order, after checking that they can be paired."""
    if absent := [column for column in _COLUMNS if column not in rows]:
        raise GraftError(f"evaluation rows: no column {', '.join(absent)}; run the stage `evaluate` again")
    values = pd.to_numeric(rows["quality"], errors="coerce")
    if not values.between(0, 1).all():
        where = rows.loc[~values.between(0, 1), "id"].iloc[0]
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


def _enough_rows(n: int, settings: GateSettings) -> RuleFinding:
    if n < settings.min_rows:
        return "inconclusive", f"Only {n} rows were evaluated; a judgement needs at least {settings.min_rows}."
    return "pass", f"{n} rows were evaluated; at least {settings.min_rows} are needed."


def _quality(found: Comparison, settings: GateSettings) -> RuleFinding:
    """The rule for the base asks for a gain, the one for the incumbent for no more than a small loss."""
    if found.against == BASE:
        line, wish = settings.min_gain, f"the required gain of {settings.min_gain:+.3f}"
    else:
        line, wish = -settings.non_inferiority_margin, f"the tolerated loss of {-settings.non_inferiority_margin:+.3f}"
    outcome: GateOutcome = "pass" if found.low > line else "fail" if found.high < line else "inconclusive"
    place = {
        "pass": f"all of it above {wish}",
        "fail": f"all of it below {wish}",
        "inconclusive": f"so it cannot be told from {wish}; more eval rows would narrow it",
    }[outcome]
    if found.against == INCUMBENT and outcome == "pass":
        place += ", and above 0: it is better" if found.better else "; whether it is better cannot be told"
    return outcome, (
        f"Quality is {found.candidate:.3f} against the {found.against}'s {found.other:.3f}, a difference of "
        f"{found.difference:+.3f} ({settings.confidence:.0%} interval {found.low:+.3f} to {found.high:+.3f}, "
        f"{found.n} rows): {place}."
    )


def _floors(candidate: pd.DataFrame, settings: GateSettings) -> list[RuleFinding]:
    """What the candidate must reach whatever the others do."""
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


def _limited(name: str, rate: Rate, limit: Limit) -> RuleFinding:
    """The rule for a rate of whole turns."""
    if not rate.n or rate.value is None:
        return "pass", f"There are no rows for {name}, so its limit does not apply."
    low, high = limit.get("min"), limit.get("max")
    bounds = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
    kept = (low is None or rate.value >= low) and (high is None or rate.value <= high)
    wish = " and ".join(filter(None, bounds))
    return "pass" if kept else "fail", f"Whole turns: {name} is {rate.value:.4g} ({rate.n} rows); {wish} is required."


def markdown(verdict: GateVerdict) -> str:
    """The verdict as a page for people: outcome, reasons, and tables over all rows, per slice and of costs."""
    lines = [f"# Gate: {verdict.outcome}", "", *(f"- {reason}" for reason in verdict.reasons)]
    head = "| {} | n | candidate | other | difference | low | high |"
    for title, first, chosen in (
        ("All rows", "against", [c for c in verdict.comparisons if not c.slice]),
        ("Per slice, each by itself", "against, slice", [c for c in verdict.comparisons if c.slice]),
    ):
        lines += ["", f"## {title}", "", head.format(first), "| --- |" + " ---: |" * 6]
        lines += [
            f"| {', '.join(filter(None, (c.against, c.slice)))} | {c.n} | {c.candidate:.3f} | {c.other:.3f} "
            f"| {c.difference:+.3f} | {c.low:+.3f} | {c.high:+.3f} |"
            for c in chosen
        ]
    head = "| what, against | candidate | other | ratio | low | high |"
    lines += ["", "## Costs", "", head, "| --- |" + " ---: |" * 5]
    lines += [
        f"| {c.name}, {c.against} | {c.candidate:.1f} | {c.other:.1f} | {c.ratio:.2f} | {c.low:.2f} | {c.high:.2f} |"
        for c in verdict.efficiency
    ]
    return "\n".join(lines) + "\n"
