"""Personal data in a text: email addresses, telephone, payment card and bank account (IBAN) numbers.

Each kind is checked, not only matched: numbers must be valid by their own rules, so an order
number or a price is not taken for one. What was found is named by kind and never repeated, as
reports and logs must not spread it.
"""

from __future__ import annotations

import re

import phonenumbers
from stdnum import iban, luhn

REGION = "GB"
"""Whose telephone numbers are recognised without a country code."""

_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*\.[^\W\d_]{2,24}\b")
_MANY_DIGITS = re.compile(r"\d(?:\W{0,3}\d){8}")
_CARD = re.compile(r"(?<![\d-])(?:2[2-7]|3[4-9]|4\d|5[0-8]|6\d)(?:[ -]?\d){11,17}(?![\d-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}", re.IGNORECASE)
_IBAN_LENGTHS = range(34, 14, -1)


def _is_card(digits: str) -> bool:
    return bool(luhn.is_valid(re.sub(r"\D", "", digits)))


def _has_iban(text: str) -> bool:
    """Whether a candidate opens with an IBAN: the words after one may look like more of it."""
    compact = text.replace(" ", "").upper()
    return any(iban.is_valid(compact[:length]) for length in _IBAN_LENGTHS if length <= len(compact))


def _has_telephone(text: str) -> bool:
    return any(True for _ in phonenumbers.PhoneNumberMatcher(text, REGION, phonenumbers.Leniency.VALID))


def find_personal(text: str) -> tuple[str, ...]:
    """The kinds of personal data in `text`, without the data."""
    kinds = []
    if "@" in text and _EMAIL.search(text):
        kinds.append("email address")
    if not _MANY_DIGITS.search(text):
        return tuple(kinds)
    if any(_has_iban(match[0]) for match in _IBAN.finditer(text)):
        kinds.append("bank account number")
    elif any(_is_card(match[0]) for match in _CARD.finditer(text)):
        kinds.append("card number")
    elif _has_telephone(text):
        kinds.append("telephone number")
    return tuple(kinds)
