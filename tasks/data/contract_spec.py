"""`data/contract.yaml`: what the data's owner promises, as one checked record.

`contract` checks these terms; `evaluate` and serving read from them what each label expects.
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
    """A rule without a number of its own."""

    severity: Severity


class ShareRule(ContractRule):
    """A rule that tolerates a share of the rows."""

    max_share: Fraction


class RangeRule(ContractRule):
    """A rule with a lowest and a highest allowed value."""

    min: int
    max: int


class BalanceRule(ContractRule):
    """Each label has at least `min_rows` rows, and none more than `max_share` of all."""

    min_rows: int
    max_share: Fraction


class Rules(Section):
    """Every rule of the contract with its severity: a broken `error` rule stops the run."""

    readable: ContractRule
    role_order: ContractRule
    content: ContractRule
    last_turn: ContractRule
    labels: ContractRule
    behavior: ContractRule
    tools: ContractRule
    refusals: ContractRule
    language: ShareRule
    tokens: RangeRule
    volume: RangeRule
    freshness: ContractRule
    exact_duplicates: ShareRule
    near_duplicates: ShareRule
    personal_data: ContractRule
    balance: BalanceRule


class ContractSpec(Section):
    """The whole of `data/contract.yaml`."""

    owner: str
    license: str
    source: str
    updated: datetime.date
    cadence_days: Annotated[int, Field(gt=0)]
    language: str
    labels: dict[str, Behavior]
    refusal_phrases: tuple[str, ...]
    rules: Rules


def load_contract(path: Path = CONTRACT) -> ContractSpec:
    """Read and check the contract.

    Raises:
        GraftError: the file is missing, not YAML, or a term is unknown, missing or out of range.
    """
    return check(ContractSpec, read_yaml(path), str(path))
