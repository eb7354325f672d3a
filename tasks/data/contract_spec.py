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
    """`error` stops the run, `warn` is reported."""


class ShareRule(ContractRule):
    """A rule that tolerates a fraction of the rows."""

    max_share: Fraction
    """Maximum fraction of rows that break it."""


class RangeRule(ContractRule):
    """A rule with a lowest and a highest allowed value."""

    min: int
    """Lowest allowed value."""
    max: int
    """Highest allowed value."""


class BalanceRule(ContractRule):
    """A rule on the number of rows per label."""

    min_rows: int
    """Minimum rows of each label."""
    max_share: Fraction
    """Maximum fraction of all rows that one label has."""


class Rules(Section):
    """Section `rules`: every rule of the contract with its severity."""

    readable: ContractRule
    """UTF-8, JSON, the row's schema, no empty file."""
    role_order: ContractRule
    """system? user, assistant (tool assistant)? user …"""
    content: ContractRule
    """No empty turn."""
    last_turn: ContractRule
    """Each conversation ends with the assistant."""
    labels: ContractRule
    """Only the labels of the contract."""
    behavior: ContractRule
    """A tool call in rows of a tool label, and nowhere else."""
    tools: ContractRule
    """Only tools of data/prompts/tools.json, with their arguments."""
    refusals: ContractRule
    """A refusal phrase in refusals, and nowhere else."""
    language: ShareRule
    """Rows that seem to be in another language."""
    tokens: RangeRule
    """Tokens of the whole conversation as it is trained."""
    volume: RangeRule
    """Rows of the whole data set."""
    freshness: ContractRule
    """The data was updated within `cadence_days`."""
    exact_duplicates: ShareRule
    """Rows that repeat another row."""
    near_duplicates: ShareRule
    """Rows that are close to another row."""
    personal_data: ContractRule
    """No email addresses, API keys, telephone, card or bank account numbers."""
    balance: BalanceRule
    """Rows per label."""


class ContractSpec(Section):
    """The whole of `data/contract.yaml`."""

    owner: str
    """Contact for the data."""
    license: str
    """SPDX identifier."""
    source: str
    """Origin of the data, in a sentence."""
    updated: datetime.date
    """Date of the last change."""
    cadence_days: Annotated[int, Field(gt=0)]
    """Days between updates; older data breaks the rule `freshness`."""
    language: str
    """ISO 639-1 code."""
    labels: dict[str, Behavior]
    """Expected behavior of each request kind: an answer, a tool call or a refusal."""
    refusal_phrases: tuple[str, ...]
    """Phrases of which each refusal has one, in lower case."""
    rules: Rules
    """The rules and their severities."""


def load_contract(path: Path = CONTRACT) -> ContractSpec:
    """Read and validate the data contract.

    Raises:
        GraftError: the file is missing or not YAML, or a key is unknown, missing or out of range.
    """
    return check(ContractSpec, read_yaml(path), str(path))
