"""Contract spec: the data contract of `data/contract.yaml` as one validated record.

The stage `contract` checks the data against it; `evaluate` and serving read each label's expected behavior from it.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tasks.core.paths import CONTRACT
from tasks.core.settings import Section, check, read_yaml

Behavior = Literal["answer", "tool", "refusal"]
Severity = Literal["error", "warn"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class ContractRule(Section):
    """A rule without a limit."""

    severity: Severity
    """`error` stops the run, `warn` is printed."""


class ShareRule(ContractRule):
    """A rule that tolerates a fraction of the rows."""

    max_share: Fraction
    """The largest fraction of rows that may violate the rule, 0 to 1."""


class RangeRule(ContractRule):
    """A rule with a lowest and a highest allowed value."""

    min: int
    """The lowest allowed value."""
    max: int
    """The highest allowed value."""


class BalanceRule(ContractRule):
    """A rule on the number of rows per label."""

    min_rows: int
    """The smallest number of rows of each label."""
    max_share: Fraction
    """The largest fraction of all rows that one label may have, 0 to 1."""


class Rules(Section):
    """Every rule of the contract with its severity: a broken `error` rule stops the run."""

    readable: ContractRule
    """UTF-8, JSON, the row's schema, and a file that is not empty."""
    role_order: ContractRule
    """Turns in a valid order of roles."""
    content: ContractRule
    """No turn without words and tool calls."""
    last_turn: ContractRule
    """The last turn is the assistant's."""
    labels: ContractRule
    """Only labels of the contract."""
    behaviour: ContractRule
    """Tool calls in the rows of tool labels, and in no others."""
    tools: ContractRule
    """Only tools of `data/prompts/tools.json`, with arguments that fit their schemas."""
    refusals: ContractRule
    """A refusal phrase in refusals, and nowhere else."""
    language: ShareRule
    """Rows that seem to be in another language than the contract's."""
    tokens: RangeRule
    """The length of a row, in tokens of the base model."""
    volume: RangeRule
    """The number of readable rows."""
    freshness: ContractRule
    """The age of the data, at most `cadence_days`."""
    exact_duplicates: ShareRule
    """Rows that repeat an earlier row."""
    near_duplicates: ShareRule
    """Rows that nearly repeat an earlier row."""
    personal_data: ContractRule
    """No personal data (PII) in any text."""
    balance: BalanceRule
    """The number of rows per label."""


class ContractSpec(Section):
    """The whole of `data/contract.yaml`."""

    owner: str
    """The person or team that is responsible for the data."""
    licence: str
    """The license of the data, as an SPDX id."""
    source: str
    """The origin of the data."""
    updated: datetime.date
    """The date of the last update."""
    cadence_days: Annotated[int, Field(gt=0)]
    """The number of days after which the data have to be refreshed."""
    language: str
    """The code of the customers' language."""
    labels: dict[str, Behavior]
    """The expected behavior of each label: answer, tool or refusal."""
    refusal_phrases: tuple[str, ...]
    """Phrases, in lower case, of which every refusal contains one and no other answer any."""
    rules: Rules
    """The rules with their severities and limits."""


def load_contract(path: Path = CONTRACT) -> ContractSpec:
    """Read and validate the data contract.

    Raises:
        GraftError: the file is missing or not YAML, or a key is unknown, missing or out of range.
    """
    return check(ContractSpec, read_yaml(path), str(path))
