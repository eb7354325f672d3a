"""Attacks on the assistant, in what the customer writes and in what it reads.

The classifier (`tasks/safety/injection_classifier.py`) sees wording that tries to take over, not whether a request is
allowed. A customer's text that it flags is refused. What was retrieved or what a tool answered is
data: only what is flagged in it is left out, so that a poisoned note costs the note and not the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from deployments.app.guardrails.checks import CheckContext, CheckResult, When
from tasks.safety.injection_classifier import Classifier

WITHHELD = "[left out]"


class PromptInjectionCheck:
    """Blocks a customer's text that reads like an attack.

    Args:
        classifier: what tells attacks apart.
    """

    name = "injection"
    when: When = "before"

    def __init__(self, classifier: Classifier) -> None:
        self._is_attack = classifier.is_attack

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Passes or blocks."""
        return CheckResult("block", text, "attack") if self._is_attack(text) else CheckResult("pass", text)


class IndirectInjectionCheck:
    """Leaves attacks out of retrieved text and tool results.

    In a JSON object or list each string is looked at for itself and the shape is kept; in any other
    text the lines that are attacks go, and all of it if that is not enough.

    Args:
        classifier: what tells attacks apart.
    """

    name = "poisoned_data"
    when: When = "data"

    def __init__(self, classifier: Classifier) -> None:
        self._is_attack = classifier.is_attack

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Passes or redacts."""
        cleaned = self._clean(text)
        return CheckResult("pass", text) if cleaned == text else CheckResult("redact", cleaned, "attack in data")

    def _clean(self, text: str) -> str:
        value = _read_json(text)
        if value is None:
            return self._clean_text(text)
        cleaned = _map_strings(value, self._clean_text)
        return text if cleaned == value else json.dumps(cleaned, ensure_ascii=False)

    def _clean_text(self, text: str) -> str:
        if not self._is_attack(text):
            return text
        cleaned = "\n".join(WITHHELD if self._is_attack(line) else line for line in text.split("\n"))
        return WITHHELD if self._is_attack(cleaned) else cleaned


def _read_json(text: str) -> Any:
    """The object or list that `text` is, or None."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every string in it changed, the names of an object's members too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {change(name): _map_strings(item, change) for name, item in value.items()}
    return value
