"""Policy engine: business rules as code, which decide on tool calls and answers independently of the model.

A `Rule` checks facts and returns a result, or None where it does not apply. `decide` runs a list of rules
in order and returns every decision as data, so that an answer, a telemetry row and a test read the same
record. This module contains only the mechanism; each domain defines its own rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import Field

from tasks.core.records import Record

F = TypeVar("F")
RuleEffect = Literal["allow", "refuse", "needs_person"]


@dataclass(frozen=True)
class RuleResult:
    """The result of one rule."""

    outcome: RuleEffect
    """Allow, refuse, or hand over to a person."""
    code: str = ""
    """The reason as a code for machines; empty if allowed."""
    reason: str = ""
    """The reason as a sentence that may be shown to a customer; empty if allowed."""


ALLOW = RuleResult("allow")


@dataclass(frozen=True)
class ToolResult:
    """An executed tool call of this conversation."""

    tool: str
    """The tool's name."""
    result: str
    """The result as the text of the tool message."""


class Decision(Record):
    """A rule's result together with the rule's name and owner."""

    rule: str
    """The rule's name."""
    owner: str
    """The people who are responsible for the rule."""
    outcome: RuleEffect
    """Allow, refuse, or hand over to a person."""
    code: str
    """The reason as a code for machines; empty if allowed."""
    reason: str
    """The reason as a sentence that may be shown to a customer; empty if allowed."""
    instead: str = Field(default="", exclude=True)
    """The text that replaces words that are not allowed, where a domain knows the true statement. It is the
    customer's business and stays out of every record of the decision."""


@dataclass(frozen=True)
class Rule(Generic[F]):
    """A named rule with an owner."""

    name: str
    """The rule's name, which telemetry records."""
    owner: str
    """The people who decide on changes of the rule."""
    check: Callable[[F], RuleResult | None]
    """The function from facts to a result, or to None where the rule does not apply."""


def rule(owner: str) -> Callable[[Callable[[F], RuleResult | None]], Rule[F]]:
    """A decorator that makes a function a rule of the same name."""
    return lambda check: Rule(check.__name__, owner, check)


def decide(rules: Iterable[Rule[F]], facts: F) -> tuple[Decision, ...]:
    """The decisions of all rules that apply to the facts, in the order of the rules."""
    results = ((rule, rule.check(facts)) for rule in rules)
    return tuple(
        Decision(rule=rule.name, owner=rule.owner, outcome=result.outcome, code=result.code, reason=result.reason)
        for rule, result in results
        if result is not None
    )


def first_refusal(decisions: Iterable[Decision]) -> Decision | None:
    """The first decision that does not allow: the one to report. It is None if everything is allowed."""
    return next((decision for decision in decisions if decision.outcome != "allow"), None)
