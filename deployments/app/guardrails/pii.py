"""Personal data, replaced by its kind before a text goes to the model or anywhere else.

What is found is settled by `tasks/text/pii.py`, the same code that keeps it out of training data;
which kinds are replaced, by `safety.redact`. An order number or a price is none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from deployments.app.guardrails.checks import CheckContext, CheckResult, When
from tasks.text.pii import PiiType, Span

PLACEHOLDERS: dict[PiiType, str] = {
    "email address": "<EMAIL>",
    "bank account number": "<IBAN>",
    "card number": "<CARD>",
    "telephone number": "<PHONE>",
    "API key": "<API_KEY>",
    "postcode": "<POSTCODE>",
}

Detect = Callable[[str], Sequence[Span]]
"""The personal data in a text, in order of place, no two overlapping."""


def redact(text: str, spans: Iterable[Span]) -> str:
    """The text with each span replaced by its placeholder; the spans are in order and do not overlap."""
    parts: list[str] = []
    done = 0
    for span in spans:
        parts += [text[done : span.start], PLACEHOLDERS[span.kind]]
        done = span.end
    return "".join([*parts, text[done:]])


class PiiCheck:
    """Redacts personal data in what the customer wrote, or in what the model reads.

    Args:
        detect: finds the kinds that are to be replaced.
        when: which texts it is for.
    """

    name = "personal"

    def __init__(self, detect: Detect, when: When) -> None:
        self._detect = detect
        self.when: When = when

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Redacts, and names the kinds."""
        spans = self._detect(text)
        if not spans:
            return CheckResult("pass", text)
        return CheckResult("redact", redact(text, spans), ", ".join(sorted({span.kind for span in spans})))
