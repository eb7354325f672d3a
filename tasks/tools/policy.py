"""Rules that are code: what may be done and said is decided here, whatever a model wishes.

A `Rule` looks at facts and gives a verdict, or none where it does not apply. `decide` asks a list
of rules in order and returns every decision as data, so that an answer, a telemetry row and a test
read the same thing. Nothing here knows any one rule; they are a domain's.
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
    """What a rule says. `code` is for machines; `reason` is a sentence that a customer may be told."""

    outcome: RuleEffect
    code: str = ""
    reason: str = ""


ALLOW = RuleResult("allow")


@dataclass(frozen=True)
class ToolResult:
    """A tool that was run in this conversation, and its result as the text of its message."""

    tool: str
    result: str


class Decision(Record):
    """A verdict with the rule that gave it and who answers for that rule.

    `instead` is what to say in place of words that are not allowed, where a domain knows what is true;
    it is the customer's business and stays out of every record of the decision.
    """

    rule: str
    owner: str
    outcome: RuleEffect
    code: str
    reason: str
    instead: str = Field(default="", exclude=True)


@dataclass(frozen=True)
class Rule(Generic[F]):
    """A named rule with an owner: the people to ask when it should change."""

    name: str
    owner: str
    check: Callable[[F], RuleResult | None]


def rule(owner: str) -> Callable[[Callable[[F], RuleResult | None]], Rule[F]]:
    """Make a function a rule of the same name."""
    return lambda judge: Rule(judge.__name__, owner, judge)


def decide(rules: Iterable[Rule[F]], facts: F) -> tuple[Decision, ...]:
    """The decisions of all rules that apply to the facts, in the rules' order."""
    verdicts = ((rule, rule.check(facts)) for rule in rules)
    return tuple(
        Decision(rule=rule.name, owner=rule.owner, outcome=found.outcome, code=found.code, reason=found.reason)
        for rule, found in verdicts
        if found is not None
    )


def first_refusal(decisions: Iterable[Decision]) -> Decision | None:
    """The first decision that does not allow: the one to tell. Without any, everything is allowed."""
    return next((decision for decision in decisions if decision.outcome != "allow"), None)
