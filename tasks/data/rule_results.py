"""Rule results of the contract check: each rule with its violations, in words that a person can act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from pydantic import Field

from tasks.core.records import Record
from tasks.data.contract_spec import BalanceRule, ContractSpec, Rules, Severity
from tasks.data.expectations import FAULT_RULES, ExpectationResult

_COLUMN = {
    "labels": "label",
    "tokens": "n_tokens",
    "exact_duplicates": "exact_duplicate",
    "near_duplicates": "near_duplicate",
}
"""The check table's column of a rule, where its name is not the rule's."""


class Violation(Record):
    """One violation of a rule, by a row or by the whole data set."""

    source: str
    """The row's location, as `FILE:NUMBER`, or the part of the data set that the rule is about."""
    reason: str
    """The violation in words."""


class ContractRuleResult(Record):
    """The result of one rule."""

    rule: str
    """The rule's name in the contract."""
    severity: Severity
    """The rule's severity in the contract."""
    ok: bool
    """Whether the rule holds."""
    count: int
    """The number of violations, tolerated ones included."""
    checked: int
    """The number of lines that were checked."""
    limit: str
    """The limit that the rule sets, in words."""
    violations: tuple[Violation, ...] = Field(serialization_alias="offending")
    """The violations, tolerated ones included, in the order of the lines; `offending` in `result.json`."""

    @property
    def verdict(self) -> str:
        """`ok`, `warning` or `broken`."""
        return "ok" if self.ok else "broken" if self.severity == "error" else "warning"


def rule_results(
    table: pd.DataFrame, expectation_results: Sequence[ExpectationResult], spec: ContractSpec
) -> tuple[ContractRuleResult, ...]:
    """The result of every rule of the contract, in the contract's order."""
    limits = limits_of(spec)
    data_set_rules: dict[str, Callable[[], list[Violation]]] = {
        "volume": lambda: _volume(table),
        "freshness": lambda: _freshness(table, spec),
        "balance": lambda: _balance(table, spec),
    }
    results = []
    for rule in Rules.model_fields:
        of_rule = [result for result in expectation_results if result.rule == rule]
        ok = all(result.success for result in of_rule)
        if rule in data_set_rules:
            violations = [] if ok else data_set_rules[rule]()
        else:
            indexes = sorted({index for result in of_rule for index in result.indexes})
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
    """The limit of each rule, in words."""
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
