"""Prompt injection checks: direct, in the customer's text, and indirect, in passages and tool results.

The classifier (`tasks/safety/injection_classifier.py`) detects wording that tries to override the
instructions, not whether a request is allowed. A flagged customer's text is refused. Passages and
tool results are data: only the flagged parts are removed, so that a poisoned note costs the note and
not the answer.
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
        classifier: detects attacks.
    """

    name = "injection"
    when: When = "before"

    def __init__(self, classifier: Classifier) -> None:
        self._is_attack = classifier.is_attack

    def __call__(self, text: str, context: CheckContext) -> CheckResult:
        """Passes or blocks."""
        return CheckResult("block", text, "attack") if self._is_attack(text) else CheckResult("pass", text)


class IndirectInjectionCheck:
    """Removes attacks from passages and tool results.

    In a JSON object or list each string is checked separately and the structure is kept; in any other
    text the flagged lines are removed, and all of it if the rest is still flagged.

    Args:
        classifier: detects attacks.
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
    """The JSON object or list in `text`, or None."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with `change` applied to every string, object keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {change(name): _map_strings(item, change) for name, item in value.items()}
    return value
