"""PII redaction: personal data is replaced by a placeholder before a text reaches the model or anything else.

`tasks/text/pii.py` finds it, the same code that keeps it out of training data; `guardrails.redact`
chooses the kinds that are replaced. Order numbers and prices are no personal data.
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
"""The personal data in a text: spans in order, without overlaps."""


def redact(text: str, spans: Iterable[Span]) -> str:
    """The text with each span replaced by its placeholder; the spans are in order, without overlaps."""
    parts: list[str] = []
    end = 0
    for span in spans:
        parts += [text[end : span.start], PLACEHOLDERS[span.kind]]
        end = span.end
    return "".join([*parts, text[end:]])


class PiiCheck:
    """Redacts personal data in the customer's text, or in passages and tool results.

    Args:
        detect: finds the kinds to replace.
        when: the texts it applies to.
    """

    name = "personal"

    def __init__(self, detect: Detect, when: When) -> None:
        self._detect = detect
        self.when: When = when

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Passes or redacts; the reason names the kinds."""
        spans = self._detect(text)
        if not spans:
            return CheckResult("pass", text)
        return CheckResult("redact", redact(text, spans), ", ".join(sorted({span.kind for span in spans})))
