"""The policy engine: every decision is data, and the first refusal is the one that counts."""

from __future__ import annotations

from tasks.tools.policy import ALLOW, Decision, RuleResult, decide, first_refusal, rule


@rule("growers")
def positive(number: int) -> RuleResult | None:
    return ALLOW if number > 0 else RuleResult("refuse", "negative", "Too small.")


@rule("accounts")
def small(number: int) -> RuleResult | None:
    return RuleResult("needs_person", "big", "Too big.") if number > 10 else ALLOW


@rule("accounts")
def even_when_big(number: int) -> RuleResult | None:
    if number <= 10:
        return None
    return ALLOW if number % 2 == 0 else RuleResult("refuse", "odd", "Odd.")


RULES = (positive, small, even_when_big)


def test_a_rule_bears_its_functions_name_and_its_owner() -> None:
    assert (positive.name, positive.owner) == ("positive", "growers")


def test_all_rules_that_apply_are_reported_in_order() -> None:
    assert [(d.rule, d.outcome) for d in decide(RULES, 11)] == [
        ("positive", "allow"),
        ("small", "needs_person"),
        ("even_when_big", "refuse"),
    ]


def test_a_rule_that_does_not_apply_decides_nothing() -> None:
    assert [d.rule for d in decide(RULES, 10)] == ["positive", "small"]


def test_the_first_objection_is_the_one_that_counts() -> None:
    decision = first_refusal(decide(RULES, 11))
    assert decision == Decision(rule="small", owner="accounts", outcome="needs_person", code="big", reason="Too big.")


def test_without_an_objection_everything_is_allowed() -> None:
    assert first_refusal(decide(RULES, 4)) is None
    assert first_refusal(()) is None
