"""Contract check: which rules of the data contract hold, and which rows violate them."""

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
    """The result of a contract check."""

    results: tuple[ContractRuleResult, ...]
    """The result of every rule, in the contract's order."""
    rows: pd.DataFrame
    """The trainable rows, with the columns of `rows.parquet`."""
    lines: int
    """The number of raw lines that were checked."""

    @property
    def broken(self) -> list[ContractRuleResult]:
        """The results of broken `error` rules."""
        return [result for result in self.results if result.verdict == "broken"]

    @property
    def warnings(self) -> list[ContractRuleResult]:
        """The results of broken `warn` rules."""
        return [result for result in self.results if result.verdict == "warning"]


def check_contract(
    lines: Sequence[RawLine], spec: ContractSpec, prompt: Prompt, settings: ContractSettings, today: date
) -> ContractResult:
    """Check raw lines against the data contract.

    Args:
        lines: the raw lines, at least one.
        spec: the data contract.
        prompt: the prompt that counts tokens and declares tools.
        settings: the section `contract` of `params.yaml`.
        today: the date for the age of the data.
    """
    table, rows = build_table(lines, spec, prompt, settings.near_duplicate_threshold, today)
    results = rule_results(table, validate(table, expectations_of(spec)), spec)
    return ContractResult(results, rows, len(lines))


def broken_message(result: ContractResult, shown: int) -> str:
    """The table of broken rules as a message for a person; it lists `shown` violations per rule."""
    rules = "1 rule" if len(result.broken) == 1 else f"{len(result.broken)} rules"
    return f"the data breaks {rules} of the contract:\n{text_table(result.broken, shown)}"
