"""Output checks: leaked instructions, links, and other people's data in an answer.

Each checks the whole text that it gets, so an answer must be complete before its last check. A
paraphrase, a translation or base64 of the same content is not detected.
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


def _ngrams(texts: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """All n-grams of `length` words in each of `texts`, case-folded."""
    for text in texts:
        words = _WORD.findall(text.casefold())
        yield from zip(*(words[start:] for start in range(length)), strict=False)


class PromptLeakageCheck:
    """Blocks an answer that repeats the instructions.

    Args:
        words: the number of consecutive words shared with the instructions that blocks, regardless of
            case and punctuation.
    """

    name = "instructions"
    when: When = "after"

    def __init__(self, words: int) -> None:
        self._words = words

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Passes or blocks."""
        instructions = set(_ngrams(context.instructions, self._words))
        if instructions.isdisjoint(_ngrams([text], self._words)):
            return CheckResult("pass", text)
        return CheckResult("block", text, "reads out the instructions")


class LinkCheck:
    """Blocks an answer with a link to a host that is not allowed, or with content that loads without a click.

    An image's URL can exfiltrate data without a click, so no image is allowed at all.

    Args:
        hosts: the allowed hosts, in lower case; their subdomains are allowed too.
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
    """Redacts personal data that is neither in the customer's messages nor in the passages and tool results.

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
        sources = [_normalized(source) for source in (*context.user_messages, *context.results)]
        others = [span for span in spans if not _is_known(text, span, sources)]
        if not others:
            return CheckResult("pass", text)
        return CheckResult("redact", redact(text, others), ", ".join(sorted({span.kind for span in others})))


def _is_known(text: str, span: Span, sources: Sequence[str]) -> bool:
    return any(_normalized(text[span.start : span.end]) in source for source in sources)


def _normalized(text: str) -> str:
    """Letters, digits and the characters of an address, so that the spacing of a number does not matter."""
    return re.sub(r"[^\w@.+]", "", text.casefold())
