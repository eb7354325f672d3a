"""What an answer must not carry out of the house: the instructions, links, other people's data.

Each looks at the whole answer, so an answer that is checked cannot leave before it is finished.
What says the same in other words, in another language or in base64 is not seen here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from deployments.app.guardrails.checks import CheckContext, CheckResult, When
from deployments.app.guardrails.pii import Detect, redact
from tasks.text.pii import Span

_WORD = re.compile(r"\w+")
_IMAGE = re.compile(r"!\[[^\]]*\]\s*[(\[]|<\s*(?:img|iframe|script|link|object|embed|svg)\b", re.IGNORECASE)
_LINK = re.compile(
    r"(?P<url>(?:[a-z][a-z0-9+.-]*:)?[/\\]{2}[^\s<>\"')\]]+)"
    r"|(?P<bare>\b(?:www\.[^\s<>\"')\]]+|(?:[a-z0-9-]+\.)+[a-z]{2,}[/?][^\s<>\"')\]]*))"
    r"|(?P<other>\b(?:javascript|data|vbscript|file|mailto):[^\s<>\"')\]]+)",
    re.IGNORECASE,
)


def _runs(texts: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of `length` words within each of `texts`, in one case."""
    for text in texts:
        words = _WORD.findall(text.casefold())
        yield from zip(*(words[start:] for start in range(length)), strict=False)


class PromptLeakageCheck:
    """Blocks an answer that reads out the instructions.

    Args:
        words: so many words in a row as in the instructions, whatever the case and punctuation, are too many.
    """

    name = "instructions"
    when: When = "after"

    def __init__(self, words: int) -> None:
        self._words = words

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Passes or blocks."""
        own = set(_runs(context.instructions, self._words))
        if own.isdisjoint(_runs([text], self._words)):
            return CheckResult("pass", text)
        return CheckResult("block", text, "reads out the instructions")


class LinkCheck:
    """Blocks an answer with a link to another host than those allowed, or with anything that loads by itself.

    Data leaves by an image's address without a click, so no image is allowed at all.

    Args:
        hosts: the allowed ones, in lower case; what is below them is allowed too.
    """

    name = "links"
    when: When = "after"

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = tuple(hosts)

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Passes or blocks."""
        if _IMAGE.search(text):
            return CheckResult("block", text, "image or active content")
        if any(not self._is_allowed(match) for match in _LINK.finditer(text)):
            return CheckResult("block", text, "link to another host")
        return CheckResult("pass", text)

    def _is_allowed(self, match: re.Match[str]) -> bool:
        if match["other"]:
            return False
        # Browsers read a backslash as a slash; Python does not.
        url = (match["url"] or f"//{match['bare']}").replace("\\", "/")
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").rstrip(".,;:!?")
        except ValueError:
            return False
        return parts.scheme in ("", "http", "https") and any(
            host == allowed or host.endswith(f".{allowed}") for allowed in self._hosts
        )


class DataLeakageCheck:
    """Redacts personal data that neither the customer wrote nor anything that the turn has read holds.

    Args:
        detect: finds personal data.
    """

    name = "others_data"
    when: When = "after"

    def __init__(self, detect: Detect) -> None:
        self._detect = detect

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Passes or redacts."""
        spans = self._detect(text)
        if not spans:
            return CheckResult("pass", text)
        known = [_bare(source) for source in (*context.user_messages, *context.results)]
        others = [span for span in spans if not _is_known(text, span, known)]
        if not others:
            return CheckResult("pass", text)
        return CheckResult("redact", redact(text, others), ", ".join(sorted({span.kind for span in others})))


def _is_known(text: str, span: Span, known: Sequence[str]) -> bool:
    return any(_bare(text[span.start : span.end]) in source for source in known)


def _bare(text: str) -> str:
    """Letters, digits and what an address needs, so that a number counts as the same however it is spaced."""
    return re.sub(r"[^\w@.+]", "", text.casefold())
