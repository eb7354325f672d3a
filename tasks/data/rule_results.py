"""What the contract's check came to, rule by rule, in words a person can act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from tasks.core.records import Record
from tasks.data.contract_spec import BalanceRule, ContractSpec, Rules, Severity
from tasks.data.expectations import FAULT_RULES, ExpectationResult

_COLUMN = {
    "labels": "label",
    "tokens": "n_tokens",
    "exact_duplicates": "exact_duplicate",
    "near_duplicates": "near_duplicate",
}
"""The table's column that a rule is about, where it does not bear the rule's name."""


class Violation(Record):
    """One offending row, or for a rule about the whole data what is wrong with it."""

    source: str
    reason: str


class ContractRuleResult(Record):
    """One rule's outcome. `count` is the number of offences, tolerated ones included."""

    rule: str
    severity: Severity
    ok: bool
    count: int
    checked: int
    limit: str
    violations: tuple[Violation, ...]

    @property
    def verdict(self) -> str:
        """`ok`, `warning` or `broken`."""
        return "ok" if self.ok else "broken" if self.severity == "error" else "warning"


def rule_results(
    table: pd.DataFrame, expectation_results: Sequence[ExpectationResult], spec: ContractSpec
) -> tuple[ContractRuleResult, ...]:
    """Every rule of the contract with its offences, in the contract's order."""
    limits = limits_of(spec)
    whole: dict[str, Callable[[], list[Violation]]] = {
        "volume": lambda: _volume(table),
        "freshness": lambda: _freshness(table, spec),
        "balance": lambda: _balance(table, spec),
    }
    results = []
    for rule in Rules.model_fields:
        own = [finding for finding in expectation_results if finding.rule == rule]
        ok = all(finding.success for finding in own)
        if rule in whole:
            violations = [] if ok else whole[rule]()
        else:
            indexes = sorted({index for finding in own for index in finding.indexes})
            violations = [_violation(table, rule, index) for index in indexes]
        results.append(
            ContractRuleResult(
                rule=rule,
                severity=getattr(spec.rules, rule).severity,
                ok=ok,
                count=len(violations),
                checked=len(table),
                limit=limits[rule],
                violations=tuple(violations),
            )
        )
    return tuple(results)


def limits_of(spec: ContractSpec) -> dict[str, str]:
    """What each rule tolerates, in words."""
    rules = spec.rules
    balance: BalanceRule = rules.balance
    return {
        **dict.fromkeys(FAULT_RULES, "no row"),
        "labels": f"one of the contract's {len(spec.labels)} labels",
        "language": f"{spec.language}, but for {_percent(rules.language.max_share)} of rows",
        "tokens": f"{rules.tokens.min} to {rules.tokens.max} tokens",
        "volume": f"{rules.volume.min} to {rules.volume.max} rows",
        "freshness": f"0 to {spec.cadence_days} days old",
        "exact_duplicates": f"at most {_percent(rules.exact_duplicates.max_share)} of rows",
        "near_duplicates": f"at most {_percent(rules.near_duplicates.max_share)} of rows",
        "balance": f"each label {balance.min_rows} rows or more, none over {_percent(balance.max_share)}",
    }


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"


def _violation(table: pd.DataFrame, rule: str, index: int) -> Violation:
    column = _COLUMN.get(rule, rule)
    value: Any = table.at[index, column]
    if rule == "labels":
        reason = f"label {value!r} is not in the contract" if value else "no label"
    elif rule == "tokens":
        reason = f"{value:.0f} tokens"
    else:
        reason = f"seems to be {value}" if rule == "language" else str(value)
    return Violation(source=str(table.at[index, "source"]), reason=reason)


def _volume(table: pd.DataFrame) -> list[Violation]:
    return [Violation(source="data/raw", reason=f"{int(table['readable_rows'].sum())} readable rows")]


def _freshness(table: pd.DataFrame, spec: ContractSpec) -> list[Violation]:
    age_days = int(table["age_days"].max())
    age = f"{age_days} days ago" if age_days >= 0 else "in the future"
    return [Violation(source="data/contract.yaml", reason=f"updated {spec.updated.isoformat()}, {age}")]


def _balance(table: pd.DataFrame, spec: ContractSpec) -> list[Violation]:
    rule = spec.rules.balance
    counts = Counter(label for label in table["label"] if label is not None)
    labels = sorted(spec.labels, key=lambda label: (counts[label], label))
    return [
        Violation(source=f"label {label}", reason=f"{counts[label]} rows")
        for label in labels
        if counts[label] < rule.min_rows or counts[label] / counts.total() > rule.max_share
    ]
