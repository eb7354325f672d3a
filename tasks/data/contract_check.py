"""The data contract checked against rows: which rules hold, which rows violate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import pandas as pd

from tasks.core.settings import ContractSettings
from tasks.data.check_table import build_table
from tasks.data.contract_report import text_table
from tasks.data.contract_spec import ContractSpec
from tasks.data.expectations import expectations_of, validate
from tasks.data.raw_rows import RawLine
from tasks.data.rule_results import ContractRuleResult, rule_results
from tasks.prompt.encoding import Prompt


@dataclass(frozen=True)
class ContractResult:
    """The outcome of every rule, and the rows that can be trained on (columns as in `rows.parquet`)."""

    results: tuple[ContractRuleResult, ...]
    rows: pd.DataFrame
    lines: int

    @property
    def broken(self) -> list[ContractRuleResult]:
        return [outcome for outcome in self.results if outcome.verdict == "broken"]

    @property
    def warnings(self) -> list[ContractRuleResult]:
        return [outcome for outcome in self.results if outcome.verdict == "warning"]


def check_contract(
    lines: Sequence[RawLine], spec: ContractSpec, prompt: Prompt, settings: ContractSettings, today: date
) -> ContractResult:
    """Check raw lines, at least one, against the terms as of `today`."""
    table, rows = build_table(lines, spec, prompt, settings.near_duplicate, today)
    results = rule_results(table, validate(table, expectations_of(spec)), spec)
    return ContractResult(results, rows, len(lines))


def broken_message(result: ContractResult, shown: int) -> str:
    """The table of broken rules for a person."""
    rules = "1 rule" if len(result.broken) == 1 else f"{len(result.broken)} rules"
    return f"the data breaks {rules} of the contract:\n{text_table(result.broken, shown)}"
