"""The rules for answers: what an answer must not state, in the order of their evaluation.

They look at one answer and at the facts of its turn: the results of tools, the passages found, the
customer's own messages. They are patterns, so they catch plain wording and not every paraphrase. No
action depends on them: those are held by `tasks/domains/nursery/call_rules.py`, whatever an answer says.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import combinations

from tasks.domains.nursery.answer_patterns import (
    AMOUNT,
    CONDITIONAL,
    DECLINES,
    DENIES,
    DONE,
    EMAIL,
    FIGURE,
    GIVEN_BACK,
    GUARANTEE,
    NEGATED,
    OFFER,
    ORDER_NUMBER,
    SAFE,
    SENTENCE,
    SHARE,
    TELLS_OTHERS,
    TEN_YEARS,
    TOLD_AMOUNT,
)
from tasks.domains.nursery.database import Shop
from tasks.domains.nursery.entities import Customer
from tasks.domains.nursery.result_sentences import result_sentence
from tasks.tools.domain_interface import TurnEvidence
from tasks.tools.policy import ALLOW, Decision, RuleResult, ToolResult, decide, first_refusal, rule


@dataclass(frozen=True)
class AnswerFacts:
    """The facts that an answer may rely on.

    Attributes:
        customer: the customer; None if the client is not signed in.
        tool_results: the results of the tools that ran here, never those that a client reports.
        passages: the passages found in the knowledge base.
        user_messages: the customer's messages.
        searched: whether the knowledge base was searched.
    """

    customer: Customer | None = None
    tool_results: tuple[ToolResult, ...] = ()
    passages: tuple[str, ...] = ()
    user_messages: tuple[str, ...] = ()
    searched: bool = False

    @classmethod
    def of_turn(cls, evidence: TurnEvidence, shop: Shop) -> AnswerFacts:
        """The facts of a turn, with its customer as the shop knows them."""
        customer = None
        if evidence.customer is not None:
            with shop.transaction(write=False) as transaction:
                customer = transaction.customer(evidence.customer)
        passages = evidence.passages
        return cls(customer, evidence.tool_results, passages or (), evidence.user_messages, passages is not None)


@dataclass(frozen=True)
class CheckedAnswer:
    """An answer with the facts of its turn."""

    text: str
    facts: AnswerFacts

    def sentences(self, pattern: re.Pattern[str]) -> list[str]:
        """The sentences that the pattern matches."""
        text = self.text.replace("\u2019", "'")
        return [sentence for sentence in SENTENCE.split(text) if pattern.search(sentence)]

    @property
    def results(self) -> str:
        return " ".join(tool_result.result for tool_result in self.facts.tool_results)


def check_answer(text: str, facts: AnswerFacts) -> tuple[Decision, ...]:
    """The decisions of the rules on an answer before it is sent.

    Where a tool was run, its last result as a sentence replaces an answer that is not allowed.
    """
    decisions = decide(RULES, CheckedAnswer(text, facts))
    if not facts.tool_results or first_refusal(decisions) is None:
        return decisions
    instead = {"instead": result_sentence(facts.tool_results[-1])}
    return tuple(one if one.outcome == "allow" else one.model_copy(update=instead) for one in decisions)


@rule("support desk")
def promised_guarantee(answer: CheckedAnswer) -> RuleResult | None:
    """No guarantee but the one for tools, if a passage states it."""
    found = answer.sentences(GUARANTEE)
    if not found:
        return None
    stated = any(TEN_YEARS.search(passage) for passage in answer.facts.passages)
    bold = [s for s in found if not (NEGATED.search(s) or (stated and TEN_YEARS.search(s)))]
    return _refuse("The desk gives no guarantees beyond our written promises.") if bold else ALLOW


@rule("accounts")
def promised_money(answer: CheckedAnswer) -> RuleResult | None:
    """An amount comes from a tool, a passage or the customer; a refunded amount comes from a refund alone."""
    found = answer.sentences(AMOUNT)
    if not found:
        return None
    back = {
        pence
        for tool_result in answer.facts.tool_results
        if tool_result.tool == "refund_order"
        for pence in _tool_amounts(tool_result.result)
    }
    known = _tool_amounts(answer.results) | _figures(answer.facts)
    for sentence in found:
        allowed = back if GIVEN_BACK.search(sentence) and not _from_passage(sentence, answer) else known
        if not _amounts(sentence) <= allowed:
            return _refuse("The desk names no amounts that it has not looked up.")
    return ALLOW


@rule("support desk")
def unfounded_figure(answer: CheckedAnswer) -> RuleResult | None:
    """Without a passage or a tool's result the only figures are the customer's."""
    facts = answer.facts
    figures = set(FIGURE.findall(answer.text))
    if not figures or not facts.searched or facts.passages or facts.tool_results:
        return None
    known = set(FIGURE.findall(" ".join(facts.user_messages)))
    return ALLOW if figures <= known else _refuse("The desk found nothing about that in its pages.")


@rule("support desk")
def promised_deed(answer: CheckedAnswer) -> RuleResult | None:
    """An action that the answer claims was performed by a tool."""
    applied = False
    for tool, pattern in DONE.items():
        found = [s for s in answer.sentences(pattern) if not (NEGATED.search(s) or CONDITIONAL.search(s))]
        applied = applied or bool(found)
        seen = tool == "cancel_order" and '"status": "cancelled"' in answer.results
        if (
            found
            and not seen
            and not any(tool_result.tool == tool and _stands(tool_result) for tool_result in answer.facts.tool_results)
        ):
            return _refuse("The desk says that something is done only when it is.")
    return ALLOW if applied else None


@rule("support desk")
def denied_deed(answer: CheckedAnswer) -> RuleResult | None:
    """An answer does not deny the result that a tool has just had."""
    if not answer.facts.tool_results or not DENIES.search(answer.text.replace("\u2019", "'")):
        return None
    return _refuse("The desk does not deny what it has done.") if _stands(answer.facts.tool_results[-1]) else ALLOW


@rule("growers")
def promised_safety(answer: CheckedAnswer) -> RuleResult | None:
    """No statement on whether a plant is safe to eat or good as a remedy."""
    found = answer.sentences(SAFE)
    if not found:
        return None
    bold = [sentence for sentence in found if not DECLINES.search(sentence)]
    return _refuse("The desk does not say what is safe to eat or good as a remedy.") if bold else ALLOW


@rule("accounts")
def promised_discount(answer: CheckedAnswer) -> RuleResult | None:
    """No discounts but those that a passage states."""
    offers = [s for s in answer.sentences(OFFER) if not NEGATED.search(s)]
    shares = [s for s in answer.sentences(SHARE) if not GUARANTEE.search(s)]
    if not offers and not shares:
        return None
    stated = set(SHARE.findall(" ".join(answer.facts.passages)))
    known = stated | set(SHARE.findall(" ".join(answer.facts.user_messages)))
    for sentence in {*offers, *shares}:
        named = set(SHARE.findall(sentence))
        offered = sentence in offers
        if not named <= (stated if offered else known) or (offered and not named):
            return _refuse("The desk gives no discounts of its own.")
    return ALLOW


@rule("account team")
def other_people(answer: CheckedAnswer) -> RuleResult | None:
    """No personal data of other people: no address or order that is not the customer's, nothing disclosed to others."""
    known = " ".join((*answer.facts.user_messages, *answer.facts.passages, answer.results)).lower()
    own = answer.facts.customer.email.lower() if answer.facts.customer else ""
    emails = {email.lower() for email in EMAIL.findall(answer.text)}
    orders = set(ORDER_NUMBER.findall(answer.text))
    disclosed = [s for s in answer.sentences(TELLS_OTHERS) if not (NEGATED.search(s) or CONDITIONAL.search(s))]
    if not emails and not orders and not disclosed:
        return None
    strange = [name for name in (emails - {own}) | orders if name not in known]
    return _refuse("The desk speaks of an account only with its holder.") if strange or disclosed else ALLOW


RULES = (
    promised_guarantee,
    promised_money,
    unfounded_figure,
    promised_deed,
    denied_deed,
    promised_safety,
    promised_discount,
    other_people,
)


def _stands(tool_result: ToolResult) -> bool:
    """Whether the tool's action is in effect: performed now, or already before."""
    return "error" not in json.loads(tool_result.result) or " already." in tool_result.result


def _refuse(reason: str) -> RuleResult:
    return RuleResult("refuse", "not_allowed", reason)


def _amounts(text: str) -> set[int]:
    """The amounts of money in a text, in pence."""
    numbers = (pounds or words for pounds, words in AMOUNT.findall(text))
    return {round(float(number.replace(",", "")) * 100) for number in numbers}


def _tool_amounts(result: str) -> set[int]:
    """The amounts in a tool's result, in pence."""
    return {round(float(number) * 100) for number in TOLD_AMOUNT.findall(result)}


def _figures(facts: AnswerFacts) -> set[int]:
    """The amounts in passages and in the customer's messages, and those computed from them, in pence.

    Two amounts may be added or subtracted. Up to three that the customer named may be added, and a
    percentage in a passage may be taken of the sum, or taken off it.
    """
    stated = " ".join(facts.passages)
    named = _amounts(" ".join(facts.user_messages))
    sums = {sum(some) for count in (1, 2, 3) for some in combinations(sorted(named), count)}
    shares = [round(pence * int(share) / 100) for pence in sums for share in set(SHARE.findall(stated))]
    rests = [round(pence * (100 - int(share)) / 100) for pence in sums for share in set(SHARE.findall(stated))]
    pairs = list(combinations(sorted(_amounts(stated) | named), 2))
    computed = {low + high for low, high in pairs} | {high - low for low, high in pairs}
    return _amounts(stated) | sums | computed | {*shares, *rests}


def _from_passage(sentence: str, answer: CheckedAnswer) -> bool:
    """Whether each amount of a sentence stands in a passage's sentence that is about refunds too."""
    lines = (line for passage in answer.facts.passages for line in SENTENCE.split(passage) if GIVEN_BACK.search(line))
    return _amounts(sentence) <= {pence for line in lines for pence in _amounts(line)}
