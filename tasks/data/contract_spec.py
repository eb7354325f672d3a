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

Behaviour = Literal["answer", "tool", "refusal"]
Severity = Literal["error", "warn"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Rule(Section):
    """A rule without a number of its own."""

    severity: Severity


class ShareRule(Rule):
    """A rule that tolerates a share of the rows."""

    max_share: Share


class RangeRule(Rule):
    """A rule with a lowest and a highest allowed value."""

    min: int
    max: int


class BalanceRule(Rule):
    """Each label has at least `min_rows` rows, and none more than `max_share` of all."""

    min_rows: int
    max_share: Share


class Rules(Section):
    """Every rule of the contract with its severity: a broken `error` rule stops the run."""

    readable: Rule
    role_order: Rule
    content: Rule
    last_turn: Rule
    labels: Rule
    behaviour: Rule
    tools: Rule
    refusals: Rule
    language: ShareRule
    tokens: RangeRule
    volume: RangeRule
    freshness: Rule
    exact_duplicates: ShareRule
    near_duplicates: ShareRule
    personal_data: Rule
    balance: BalanceRule


class Terms(Section):
    """The whole of `data/contract.yaml`."""

    owner: str
    licence: str
    source: str
    updated: datetime.date
    cadence_days: Annotated[int, Field(gt=0)]
    language: str
    labels: dict[str, Behaviour]
    refusal_phrases: tuple[str, ...]
    rules: Rules


def load_terms(path: Path = CONTRACT) -> Terms:
    """Read and check the contract.

    Raises:
        GraftError: the file is missing, not YAML, or a term is unknown, missing or out of range.
    """
    return check(Terms, read_yaml(path), str(path))
