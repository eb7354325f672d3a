"""The rules for tool calls: the actions that the desk may take, in the order of their evaluation.

They follow `data/knowledge`. An order reaches the later rules only if it is the customer's own, so
no decision, reason or telemetry row reveals anything about another customer's. Both ends of every
span are tested in tests/tasks/domains/nursery/test_call_rules.py.
"""

from __future__ import annotations

from datetime import datetime

from tasks.domains.nursery.calendar import cut_off
from tasks.domains.nursery.entities import HARDY, LIVING, Kind, Reason
from tasks.domains.nursery.refunds import refundable
from tasks.domains.nursery.rule_facts import CallFacts
from tasks.domains.nursery.tool_arguments import ClaimArguments, OrderArguments, RefundArguments, ReturnArguments
from tasks.domains.nursery.tools import ToolContext, find_line, is_fresh
from tasks.domains.nursery.transaction import ShopTransaction
from tasks.tools.policy import ALLOW, Decision, RuleResult, decide, rule
from tasks.tools.toolbox import Call

RETURN_DAYS: dict[Kind, int] = {"goods": 30, "tool": 30, "seed": 14, "bulb": 14}
GUARANTEE_YEARS = 10
SEASON_YEARS = 1
NO_ORDER = "No order of that number is on your account."
NO_GROUNDS: dict[Reason, str] = {
    "late": "Postage comes back when a parcel is more than 5 working days late; this one is not.",
    "cancelled": "Nothing was charged for a cancelled order of that number.",
    "returned": "No return of this order has reached us yet.",
    "claim": "No claim of this order has been accepted for a refund.",
    "overcharged": "What was charged is what the order costs.",
}


def check_call(
    call: Call[ToolContext], customer: str | None, transaction: ShopTransaction, now: datetime, limit_pence: int
) -> tuple[Decision, ...]:
    """The decisions of the rules on a tool call.

    Args:
        call: the call.
        customer: the id of the customer who makes it; None if the client is not signed in.
        transaction: the transaction in which the tool will run.
        now: the shop's time.
        limit_pence: the most that the desk may refund for one order.
    """
    arguments = call.arguments
    signed_in = customer is not None and transaction.customer(customer) is not None
    order = transaction.order(arguments.order_id) if isinstance(arguments, OrderArguments) else None
    own = order if order and signed_in and order.customer == customer else None
    line = find_line(own, arguments.item) if own and isinstance(arguments, ReturnArguments | ClaimArguments) else None
    return decide(RULES, CallFacts(call, signed_in, order is not None, own, line, now, limit_pence))


@rule("account team")
def signed_in(facts: CallFacts) -> RuleResult | None:
    """Orders are for customers whom the shop's site has signed in."""
    if facts.call.tool.caller == "anyone":
        return None
    return ALLOW if facts.signed_in else RuleResult("refuse", "sign_in", "Please sign in first, so that we know you.")


@rule("account team")
def order_of_customer(facts: CallFacts) -> RuleResult | None:
    """Only the order's own customer may read or change it."""
    if not isinstance(facts.call.arguments, OrderArguments):
        return None
    if facts.order:
        return ALLOW
    return RuleResult("refuse", "not_yours" if facts.exists else "not_found", NO_ORDER)


@rule("dispatch")
def cancel_window(facts: CallFacts) -> RuleResult | None:
    """An order may be cancelled while it is placed."""
    if facts.does != "cancel_order" or facts.order is None:
        return None
    status = facts.order.status
    if status == "placed":
        return ALLOW
    if status == "cancelled":
        return RuleResult("refuse", "not_allowed", "That order is cancelled already.")
    return RuleResult("refuse", "too_late", f"It is too late to cancel: the order is {status}.")


@rule("dispatch")
def delivery_cutoff(facts: CallFacts) -> RuleResult | None:
    """The delivery day moves until 6 pm on the day before dispatch."""
    if facts.does not in {"change_delivery", "delivery_slots"} or facts.order is None:
        return None
    status = facts.order.status
    if status == "cancelled":
        return RuleResult("refuse", "not_allowed", "That order is cancelled, so nothing is delivered.")
    if status in {"sent", "delivered"}:
        return RuleResult("refuse", "too_late", f"The order is {status}, so its day is fixed.")
    if facts.now < cut_off(facts.order.dispatch_on):
        return ALLOW
    return RuleResult("refuse", "too_late", "The day is fixed since 6 pm on the day before dispatch.")


@rule("returns team")
def living_plants(facts: CallFacts) -> RuleResult | None:
    """Living plants cannot be returned."""
    if facts.does != "start_return" or facts.line is None:
        return None
    if facts.line.kind in LIVING:
        return RuleResult("refuse", "not_allowed", "Living plants are not returnable; two promises cover them instead.")
    return ALLOW


@rule("returns team")
def return_window(facts: CallFacts) -> RuleResult | None:
    """30 days for hard goods, 14 for seeds and bulbs; 10 years for a tool that broke."""
    if facts.does != "start_return" or facts.order is None or facts.line is None or facts.line.kind in LIVING:
        return None
    days = facts.days_since_delivery
    if facts.line.kind == "voucher":
        return RuleResult("refuse", "not_allowed", "Vouchers are not exchangeable for cash.")
    if days is None:
        return RuleResult("refuse", "not_allowed", "That order has not been delivered.")
    guaranteed = facts.line.kind == "tool" and facts.line.faulty and facts.within_years(GUARANTEE_YEARS)
    allowed = RETURN_DAYS[facts.line.kind]
    if guaranteed or days <= allowed:
        return ALLOW
    return RuleResult("refuse", "too_late", f"The {allowed} days for returning that are over.")


@rule("growers")
def claim_window(facts: CallFacts) -> RuleResult | None:
    """3 days for a plant that arrived dead, damaged, wrong or not at all; 12 months for one that died."""
    if facts.does != "open_claim" or facts.order is None or facts.line is None:
        return None
    arguments = facts.call.arguments
    assert isinstance(arguments, ClaimArguments)
    if facts.order.delivered_on is None:
        return RuleResult("refuse", "not_allowed", "That order has not been delivered.")
    if facts.line.kind in {"goods", "tool", "voucher"} and arguments.problem != "missing":
        return RuleResult("refuse", "not_allowed", "The promises cover plants; please start a return for that.")
    if is_fresh(facts.order, facts.now.date()):
        return ALLOW
    if arguments.problem != "dead":
        return RuleResult("refuse", "too_late", "Troubles on arrival must reach us within 3 days of delivery.")
    if facts.within_years(SEASON_YEARS):
        return ALLOW
    return RuleResult("refuse", "too_late", "The 12 months of the First Season promise are over.")


@rule("growers")
def first_season_kind(facts: CallFacts) -> RuleResult | None:
    """First Season is for hardy perennials, shrubs and trees."""
    arguments, order, line = facts.call.arguments, facts.order, facts.line
    if not isinstance(arguments, ClaimArguments) or order is None or line is None or arguments.problem != "dead":
        return None
    if order.delivered_on is None or is_fresh(order, facts.now.date()):
        return None
    if line.kind in HARDY:
        return ALLOW
    return RuleResult("refuse", "not_allowed", "First Season covers hardy perennials, shrubs and trees only.")


@rule("accounts")
def refund_grounds(facts: CallFacts) -> RuleResult | None:
    """A refund is allowed only for a reason that the order's state supports."""
    arguments = facts.call.arguments
    if not isinstance(arguments, RefundArguments) or facts.order is None:
        return None
    if refundable(facts.order, arguments.reason, facts.now.date()):
        return ALLOW
    if any(refund.reason == arguments.reason for refund in facts.order.refunds):
        return RuleResult("refuse", "not_allowed", "That has been refunded already.")
    return RuleResult("refuse", "not_allowed", NO_GROUNDS[arguments.reason])


@rule("accounts")
def refund_limit(facts: CallFacts) -> RuleResult | None:
    """The desk refunds no more than the limit for one order, in all; a person decides about more."""
    arguments = facts.call.arguments
    if not isinstance(arguments, RefundArguments) or facts.order is None:
        return None
    pence = refundable(facts.order, arguments.reason, facts.now.date())
    if facts.order.refunded_pence + pence <= facts.limit_pence:
        return ALLOW
    return RuleResult("needs_person", "needs_person", "A colleague has to look at a refund of this size.")


RULES = (
    signed_in,
    order_of_customer,
    cancel_window,
    delivery_cutoff,
    living_plants,
    return_window,
    claim_window,
    first_season_kind,
    refund_grounds,
    refund_limit,
)
