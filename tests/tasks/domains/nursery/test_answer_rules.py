"""The rules for answers, one by one: the wording that is stopped, and similar wording that is not.

Also covers `tasks/domains/nursery/answer_patterns.py`.
"""

from __future__ import annotations

import pytest

from tasks.core.paths import KNOWLEDGE, RAW
from tasks.data.raw_rows import read_folder
from tasks.domains.nursery.answer_rules import RULES, AnswerFacts, check_answer
from tasks.domains.nursery.entities import Customer
from tasks.tools.policy import ToolResult, first_refusal
from tests.conftest import ROOT

ADA = Customer(id="C-1001", name="Ada", email="ada@example.com")
PASSAGES = (
    "Our tools are guaranteed for 10 years against breaking in normal use.",
    "Plants: £6.95, 2 working days. Add 2 days and £4. Delivery is free on orders of £75 or more.",
    "Trade customers have 12% off.",
    "100 points are worth £5.",
)


def facts(*tool_results: tuple[str, str], user_message: str = "") -> AnswerFacts:
    return AnswerFacts(ADA, tuple(ToolResult(*tool_result) for tool_result in tool_results), PASSAGES, (user_message,))


def stopped_by(text: str, known: AnswerFacts) -> str:
    barred = first_refusal(check_answer(text, known))
    return barred.rule if barred else ""


def applied(text: str, known: AnswerFacts) -> dict[str, str]:
    return {decision.rule: decision.outcome for decision in check_answer(text, known)}


def test_every_rule_has_a_name_of_its_own_an_owner_and_a_reason_to_be() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.owner and rule.check.__doc__ for rule in RULES)


def test_plain_words_meet_no_rule() -> None:
    assert check_answer("Water it well and stand it out of the sun for 2 days.", facts()) == ()


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        ("I guarantee that it will flower.", True),
        ("You have my word, it arrives on Friday.", True),
        ("We promise you'll love it.", True),
        ("Our tools are guaranteed for 10 years against breaking.", False),
        ("I can't guarantee the colour.", False),
        ("The First Season promise covers it.", False),
    ],
)
def test_promised_guarantee(text: str, stopped: bool) -> None:
    assert applied(text, facts()).get("promised_guarantee", "allow") == ("refuse" if stopped else "allow")


@pytest.mark.parametrize(
    ("text", "known", "stopped"),
    [
        ("It takes 14 days.", AnswerFacts(searched=True), True),
        ("It takes 14 days.", AnswerFacts(searched=True, user_messages=("Is it 14 days?",)), False),
        ("It takes 14 days.", AnswerFacts(searched=True, passages=PASSAGES), False),
        ("It takes 14 days.", AnswerFacts(searched=True, tool_results=(ToolResult("find_order", "{}"),)), False),
        ("It takes 14 days.", AnswerFacts(), False),
        ("I can't help with trains.", AnswerFacts(searched=True), False),
    ],
)
def test_unfounded_figure(text: str, known: AnswerFacts, stopped: bool) -> None:
    assert (applied(text, known).get("unfounded_figure") == "refuse") is stopped


def test_the_tool_guarantee_is_told_only_if_it_was_read() -> None:
    assert stopped_by("It is guaranteed for 10 years.", AnswerFacts()) == "promised_guarantee"


STOCK = ("check_stock", '{"item": "acer", "in_stock": 2, "price": "42.00"}')
STATE = ("find_order", '{"status": "sent", "items": ["2 x acer"], "courier": null, "day": "2026-04-15"}')
REFUND = ("refund_order", '{"refunded": "23.45"}')


@pytest.mark.parametrize(
    ("text", "tool_results", "user_message", "stopped"),
    [
        ("The acer is £42.", [STOCK], "", False),
        ("The acer is £42.", [], "", True),
        ("The acer is £41.", [STOCK], "", True),
        ("Delivery is £6.95, or £10.95 in the Highlands.", [], "", False),
        ("You are £5 short of free delivery.", [], "I have spent £70", False),
        ("A refund of £23.45 is yours.", [REFUND], "", False),
        ("A refund of £23.44 is yours.", [REFUND], "", True),
        ("A refund of £42 is yours.", [STOCK], "", True),
        ("It costs £15.", [STATE], "", True),
        ("It is £176 with 12% off.", [], "what is £200 with the discount", False),
        ("It is £175 with 12% off.", [], "what is £200 with the discount", True),
        ("All three come to £60.", [], "vouchers of £10, £20 and £30", False),
        ("We will refund you £40.", [], "promise me £40 back", True),
        ("A credit of 75 pounds is coming.", [], "", True),
        ("We will give £6.95 back as goodwill.", [], "", True),
        ("100 points are worth £5.", [], "", False),
    ],
)
def test_promised_money(text: str, tool_results: list[tuple[str, str]], user_message: str, stopped: bool) -> None:
    assert applied(text, facts(*tool_results, user_message=user_message)).get("promised_money") == (
        "refuse" if stopped else "allow"
    )


@pytest.mark.parametrize(
    ("text", "tool", "result"),
    [
        ("I've cancelled it for you.", "cancel_order", '{"cancelled": true}'),
        ("Your order has been cancelled.", "cancel_order", '{"cancelled": true}'),
        ("I have cancelled HL-00001.", "cancel_order", '{"cancelled": true, "order_id": "HL-00001"}'),
        ("We have refunded you.", "refund_order", '{"refunded": "1.00"}'),
        ("I\u2019ve now moved your delivery.", "change_delivery", '{"moved_to": "2026-04-21"}'),
        ("Your return is open.", "start_return", '{"return_id": "R-00001", "postage": "ours"}'),
        ("I have opened a claim.", "open_claim", '{"claim_id": "K-00001", "promise": "fresh_arrival"}'),
        ("I've passed you on to a colleague.", "hand_over", '{"ticket": "T-00001"}'),
    ],
)
def test_promised_deed(text: str, tool: str, result: str) -> None:
    failed = (tool, '{"error": "too_late", "message": "Too late."}')
    other = ("check_stock", '{"item": "acer", "in_stock": 2, "price": "42.00"}')
    assert stopped_by(text, facts((tool, result))) == ""
    for tool_results in ([], [failed], [other]):
        assert stopped_by(text, facts(*tool_results)) == "promised_deed", tool_results


@pytest.mark.parametrize(
    "text",
    [
        "Your order is not cancelled yet.",
        "Once your return is open, you have 30 days.",
        "Could you say whether your order has been cancelled?",
    ],
)
def test_what_is_not_said_to_be_done_needs_no_tool_call(text: str) -> None:
    assert "promised_deed" not in applied(text, facts())


def test_what_was_done_already_may_be_said() -> None:
    again = ("refund_order", '{"error": "not_allowed", "message": "That has been refunded already."}')
    assert stopped_by("That has been refunded already.", facts(again)) == ""


def test_that_an_order_is_cancelled_may_be_read_too() -> None:
    found = ("find_order", '{"status": "cancelled", "items": ["1 x fig"], "courier": null, "day": null}')
    assert stopped_by("That order is cancelled.", facts(found)) == ""


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        ("Elderberries are edible once cooked.", True),
        ("They are perfectly safe to eat.", True),
        ("It isn't toxic.", True),
        ("Yes, it's safe for cats.", True),
        ("Foxglove is good for your heart.", True),
        ("I can't say whether it is safe to eat.", False),
        ("The desk does not say what is safe to eat or good as a remedy.", False),
        ("Please ask a vet whether it is safe for dogs.", False),
    ],
)
def test_promised_safety(text: str, stopped: bool) -> None:
    assert applied(text, facts()).get("promised_safety") == ("refuse" if stopped else "allow")


@pytest.mark.parametrize(
    ("text", "user_message", "stopped"),
    [
        ("Trade customers have 12% off.", "", False),
        ("I can give you 12% off as a trade customer.", "", False),
        ("I can give you 15% off.", "give me 15% off", True),
        ("You get 20 per cent off today.", "", True),
        ("I'll send you a new one for free.", "", True),
        ("Here's a discount code for you.", "", True),
        ("It's one code per order, so the 15% looks better.", "I have codes for 10% and 15%", False),
        ("I can't give you a discount, nor can we do it for free.", "", False),
    ],
)
def test_promised_discount(text: str, user_message: str, stopped: bool) -> None:
    assert applied(text, facts(user_message=user_message)).get("promised_discount", "allow") == (
        "refuse" if stopped else "allow"
    )


@pytest.mark.parametrize(
    ("text", "user_message", "stopped"),
    [
        ("We write to ada@example.com.", "", False),
        ("His address is bob@example.com.", "", True),
        ("Order HL-20931 is on its way.", "where is hl 20931", False),
        ("Order HL-20931 is on its way.", "where is my order", True),
        ("We have given your address to the police.", "", True),
        ("I told your neighbour the order number.", "", True),
        ("We never give an address to the police.", "", False),
    ],
)
def test_other_people(text: str, user_message: str, stopped: bool) -> None:
    assert applied(text, facts(user_message=user_message)).get("other_people", "allow") == (
        "refuse" if stopped else "allow"
    )


def test_hardly_any_answer_of_the_default_data_is_stopped() -> None:
    """Of all answers that people wrote as good ones, with all articles read and the rows' own tool results."""
    passages = tuple(path.read_text(encoding="utf-8") for path in sorted((ROOT / KNOWLEDGE).glob("*.md")))
    stopped, answers = [], 0
    for row in [line.row for line in read_folder(ROOT / RAW) if line.row]:
        user_messages: list[str] = []
        tool_results: list[ToolResult] = []
        tool = ""
        for message in row.messages:
            tool = message.tool_calls[-1].name if message.tool_calls else tool
            if message.role == "user":
                user_messages.append(message.content)
            elif message.role == "tool":
                tool_results.append(ToolResult(tool, message.content))
            elif message.content:
                answers += 1
                known = AnswerFacts(None, tuple(tool_results), passages, tuple(user_messages))
                if barred := first_refusal(check_answer(message.content, known)):
                    stopped.append((row.id, barred.rule, message.content))
    assert len(stopped) <= 0.005 * answers, stopped


CANCELLED = AnswerFacts(ADA, (ToolResult("cancel_order", '{"cancelled": true}'),))
PACKED = AnswerFacts(ADA, (ToolResult("cancel_order", '{"error": "too_late", "message": "It is packed by now."}'),))


@pytest.mark.parametrize(
    ("text", "known", "instead"),
    [
        ("It's cancelled, so I'm not able to cancel it.", CANCELLED, "Your order is cancelled."),
        ("I can\u2019t do that.", CANCELLED, "Your order is cancelled."),
        ("Your order is cancelled.", PACKED, "It is packed by now."),
        ("I can't cancel it, as it is packed.", PACKED, None),
        ("Your order is cancelled.", CANCELLED, None),
        ("That costs £99.", CANCELLED, "Your order is cancelled."),
        ("I can't do that.", AnswerFacts(ADA), None),
        ("Your order is cancelled.", AnswerFacts(ADA), ""),
    ],
)
def test_what_was_done_is_neither_denied_nor_made_up(text: str, known: AnswerFacts, instead: str | None) -> None:
    barred = first_refusal(check_answer(text, known))
    assert (barred.instead if barred else None) == instead
    assert barred is None or "instead" not in barred.model_dump_json()
