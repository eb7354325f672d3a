"""PII detection in text: email addresses, telephone, payment card and bank account (IBAN) numbers, keys.

Each kind is checked, not only matched: numbers must be valid by their own rules, so an order
number or a price is not taken for one. A finding consists of kind and position and never repeats the
data, because reports and logs must not spread it. Names and addresses are not searched for.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import phonenumbers
from stdnum import iban, luhn

from tasks.core.settings import PiiKind

PiiType = PiiKind

REGION = "GB"
"""The region whose telephone numbers are recognized without a country code (ISO 3166)."""
KEY_ENTROPY = 3.0
"""The lowest entropy, in bits per character, of a key after a known prefix; a placeholder (sk-xxxxxxxx) has less."""
TOKEN_ENTROPY = 4.0
"""The lowest entropy, in bits per character, of a long token without a known prefix, which must also contain upper
case, lower case and digits."""

_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*\.[^\W\d_]{2,24}\b")
_MANY_DIGITS = re.compile(r"\d(?:\W{0,3}\d){8}")
_CARD = re.compile(r"(?<![\d-])(?:2[2-7]|3[4-9]|4\d|5[0-8]|6\d)(?:[ -]?\d){11,21}(?![\d-])")
_CARD_LENGTHS = range(12, 20)
_GAP = re.compile(r"[ -]")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}", re.IGNORECASE)
_IBAN_LENGTHS = range(34, 14, -1)
_KEY = re.compile(
    r"\b(?:sk|pk|rk)[-_](?:live_|test_|proj-|ant-)?(?P<a>[\w-]{16,})"
    r"|\b(?:gh[opsu]_|github_pat_|glpat-|xox[abprs]-|hf_|npm_|pypi-|SG\.|AKIA|ASIA|AIza|eyJ)(?P<b>[\w.-]{16,})"
)
_TOKEN = re.compile(r"(?<![\w/-])[A-Za-z0-9_-]{32,}(?![\w/-])")
_POSTCODE = re.compile(r"\b[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}\b", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Span:
    """The position of personal data in a text, as characters [start, end), and its kind."""

    start: int
    """The index of its first character."""
    end: int
    """The index after its last character."""
    kind: PiiType
    """The kind of personal data."""


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" in text:
        yield from (match.span() for match in _EMAIL.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    """The longest valid prefix of each candidate, because the words after an IBAN may look like a part of it."""
    for match in _IBAN.finditer(text):
        positions = [position for position, character in enumerate(match[0]) if character != " "]
        compact = match[0].replace(" ", "").upper()
        for length in _IBAN_LENGTHS:
            if length <= len(compact) and iban.is_valid(compact[:length]):
                yield match.start(), match.start() + positions[length - 1] + 1
                break


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """The longest valid prefix of each candidate that ends at a gap, because an expiry date may follow a card."""
    for match in _CARD.finditer(text):
        for end in (len(match[0]), *(gap.start() for gap in reversed(list(_GAP.finditer(match[0]))))):
            digits = re.sub(r"\D", "", match[0][:end])
            if len(digits) in _CARD_LENGTHS and luhn.is_valid(digits):
                yield match.start(), match.start() + end
                break


def _telephones(text: str) -> Iterator[tuple[int, int]]:
    if _MANY_DIGITS.search(text):
        matches = phonenumbers.PhoneNumberMatcher(text, REGION, phonenumbers.Leniency.VALID)
        yield from ((match.start, match.end) for match in matches)


def _keys(text: str) -> Iterator[tuple[int, int]]:
    yield from (match.span() for match in _KEY.finditer(text) if entropy(match["a"] or match["b"]) >= KEY_ENTROPY)
    for match in _TOKEN.finditer(text):
        kinds = (str.isupper, str.islower, str.isdigit)
        if all(any(map(kind, match[0])) for kind in kinds) and entropy(match[0]) >= TOKEN_ENTROPY:
            yield match.span()


def _postcodes(text: str) -> Iterator[tuple[int, int]]:
    yield from (match.span() for match in _POSTCODE.finditer(text))


FINDERS: dict[PiiType, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email address": _emails,
    "API key": _keys,
    "bank account number": _ibans,
    "card number": _cards,
    "telephone number": _telephones,
    "postcode": _postcodes,
}
"""The finder of each kind; of two spans that overlap, the one whose kind comes first here wins."""
CERTAIN: frozenset[PiiType] = frozenset(FINDERS) - {"postcode"}
"""The kinds that are searched for by default: all but postcodes, since many a postcode in a text is not personal."""


def entropy(text: str) -> float:
    """The entropy of `text` in bits per character, by the frequency of each character; 0 for an empty text."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def settle(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The spans in order of position; of those that overlap, the one whose kind comes first in `FINDERS` stays."""
    order = list(FINDERS)
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: order.index(span.kind)):
        if not any(span.start < other.end and other.start < span.end for other in kept):
            kept.append(span)
    return tuple(sorted(kept))


def find_spans(text: str, kinds: frozenset[PiiType] = CERTAIN) -> tuple[Span, ...]:
    """The spans of personal data in `text`, of these kinds, in order of position; no two of them overlap."""
    return settle(Span(start, end, kind) for kind in kinds for start, end in FINDERS[kind](text))


def find_pii(text: str) -> tuple[PiiType, ...]:
    """The kinds of personal data in `text`, without the data itself."""
    return tuple(dict.fromkeys(span.kind for span in find_spans(text)))
