"""What an answer may never say: each of the shop's rules for words, in the order in which they are asked.

They look at one answer and at what the turn knows: what tools really said, the passages that were
read, the customer's own words. They are patterns, so they catch plain wording and not every
paraphrase; what was *done* is held by `tasks/shop/rules.py`, whatever an answer says of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from tasks.policy import ALLOW, Decision, Verdict, decide, rule
from tasks.shop.records import Customer
from tasks.shop.wording import (
    AMOUNT,
    CONDITIONAL,
    DECLINES,
    DONE,
    EMAIL,
    GIVEN_BACK,
    GUARANTEE,
    NEGATED,
    OFFER,
    ORDER_NUMBER,
    PLAIN_AMOUNT,
    SAFE,
    SENTENCE,
    SHARE,
    TELLS_OTHERS,
    TEN_YEARS,
)


@dataclass(frozen=True)
class Deed:
    """A tool's result in this conversation, as the text of its message."""

    tool: str
    result: str

    @property
    def done(self) -> bool:
        return "error" not in json.loads(self.result)


@dataclass(frozen=True)
class TurnFacts:
    """What an answer may lean on.

    `deeds` are what tools answered here, never what a client says that they did; `passages` were
    read from the knowledge base; `said` are the customer's messages.
    """

    customer: Customer | None = None
    deeds: tuple[Deed, ...] = ()
    passages: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """An answer with the facts of its turn."""

    text: str
    facts: TurnFacts

    def sentences(self, pattern: re.Pattern[str]) -> list[str]:
        """The sentences in which the pattern is found."""
        text = self.text.replace("\u2019", "'")
        return [sentence for sentence in SENTENCE.split(text) if pattern.search(sentence)]

    @property
    def results(self) -> str:
        return " ".join(deed.result for deed in self.facts.deeds)


def before_answer(text: str, facts: TurnFacts) -> tuple[Decision, ...]:
    """What the rules say of an answer before it is sent."""
    return decide(RULES, Answer(text, facts))


@rule("support desk")
def promised_guarantee(answer: Answer) -> Verdict | None:
    """No guarantee but that for tools, if the knowledge base says so."""
    found = answer.sentences(GUARANTEE)
    if not found:
        return None
    told = any(TEN_YEARS.search(passage) for passage in answer.facts.passages)
    bold = [s for s in found if not (NEGATED.search(s) or (told and TEN_YEARS.search(s)))]
    return _refuse("The desk gives no guarantees beyond our written promises.") if bold else ALLOW


@rule("accounts")
def promised_money(answer: Answer) -> Verdict | None:
    """An amount comes from a tool or the knowledge base; one that is given back, from a tool alone."""
    found = answer.sentences(AMOUNT)
    if not found:
        return None
    told = set(_pence(PLAIN_AMOUNT, answer.results))
    read = told | {pence for text in (*answer.facts.passages, *answer.facts.said) for pence in _pence(AMOUNT, text)}
    read |= {pence for pair in combinations(sorted(read), 2) for pence in (sum(pair), pair[1] - pair[0])}
    for sentence in found:
        known = told if GIVEN_BACK.search(sentence) and not _from_passage(sentence, answer) else read
        if not set(_pence(AMOUNT, sentence)) <= known:
            return _refuse("The desk names no amounts that it has not looked up.")
    return ALLOW


@rule("support desk")
def promised_deed(answer: Answer) -> Verdict | None:
    """What is said to be done was done by a tool."""
    applied = False
    for tool, pattern in DONE.items():
        found = [s for s in answer.sentences(pattern) if not (NEGATED.search(s) or CONDITIONAL.search(s))]
        applied = applied or bool(found)
        seen = tool == "cancel_order" and '"status": "cancelled"' in answer.results
        if found and not seen and not any(deed.tool == tool and deed.done for deed in answer.facts.deeds):
            return _refuse("The desk says that something is done only when it is.")
    return ALLOW if applied else None


@rule("growers")
def promised_safety(answer: Answer) -> Verdict | None:
    """Nothing on whether a plant is safe to eat or does any good as a remedy."""
    found = answer.sentences(SAFE)
    if not found:
        return None
    bold = [sentence for sentence in found if not DECLINES.search(sentence)]
    return _refuse("The desk does not say what is safe to eat or good as a remedy.") if bold else ALLOW


@rule("accounts")
def promised_discount(answer: Answer) -> Verdict | None:
    """No discounts but those in the knowledge base."""
    offers = [s for s in answer.sentences(OFFER) if not NEGATED.search(s)]
    shares = [s for s in answer.sentences(SHARE) if not GUARANTEE.search(s)]
    if not offers and not shares:
        return None
    read = set(SHARE.findall(" ".join(answer.facts.passages)))
    heard = read | set(SHARE.findall(" ".join(answer.facts.said)))
    for sentence in {*offers, *shares}:
        named = set(SHARE.findall(sentence))
        offered = sentence in offers
        if not named <= (read if offered else heard) or (offered and not named):
            return _refuse("The desk gives no discounts of its own.")
    return ALLOW


@rule("account team")
def other_people(answer: Answer) -> Verdict | None:
    """Nothing of anybody but the customer: no address or order that is not theirs, nothing told to others."""
    known = " ".join((*answer.facts.said, *answer.facts.passages, answer.results)).lower()
    own = answer.facts.customer.email.lower() if answer.facts.customer else ""
    emails = {email.lower() for email in EMAIL.findall(answer.text)}
    orders = set(ORDER_NUMBER.findall(answer.text))
    told = [s for s in answer.sentences(TELLS_OTHERS) if not (NEGATED.search(s) or CONDITIONAL.search(s))]
    if not emails and not orders and not told:
        return None
    strange = [name for name in (emails - {own}) | orders if name not in known]
    return _refuse("The desk speaks of an account only with its holder.") if strange or told else ALLOW


RULES = (promised_guarantee, promised_money, promised_deed, promised_safety, promised_discount, other_people)


def _refuse(reason: str) -> Verdict:
    return Verdict("refuse", "not_allowed", reason)


def _pence(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    """The amounts that a pattern finds in a text."""
    for match in pattern.finditer(text):
        number = next((group for group in match.groups() if group), match[0])
        yield round(float(number.replace(",", "")) * 100)


def _from_passage(sentence: str, answer: Answer) -> bool:
    """Whether each amount stands in a sentence of the knowledge base that is about giving back too."""
    read = {
        pence
        for passage in answer.facts.passages
        for line in SENTENCE.split(passage)
        if GIVEN_BACK.search(line)
        for pence in _pence(AMOUNT, line)
    }
    return set(_pence(AMOUNT, sentence)) <= read
