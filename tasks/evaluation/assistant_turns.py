"""Assistant turns of the end-to-end evaluation: the turn to run, and what is observed of it from outside."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.records import Message, Record, ToolCall
from tasks.text.refusals import is_refusal

MODEL, TOOL_LIMIT = "model", "rounds"
"""The values of `refused_by` for refusals by no check or rule: by the model's own words, or by the fixed text that ends
a turn at the limit of tool-loop steps."""


class EvalTurn(Record):
    """A turn to run."""

    id: str
    """Id of the eval row or attack."""
    customer: str | None
    """Id of the customer whose identity the client vouches for; None for a customer who is not signed in."""
    messages: tuple[Message, ...]
    """The conversation as its client holds it."""


FILTERED = "content_filter"
"""The `finish_reason` of a refusal by a check or rule. Any other fixed text in place of the model's is an answer."""


class ObservedTurn(Record):
    """The observation of a turn from outside."""

    id: str
    """Id of the eval row or attack."""
    status: int
    """Status of the HTTP response."""
    text: str
    """All text that was sent to the client; empty unless `status` is 200."""
    finish_reason: str
    """`finish_reason` of the response."""
    blocked_by: str
    """The check or rule whose fixed text replaces the answer; empty where there is none."""
    calls: tuple[ToolCall, ...]
    """The tool calls that were executed, in order."""
    outcomes: tuple[str, ...]
    """Result of each call: `ok` or an error's code."""
    given: tuple[str, ...]
    """The sections that the model was given to read, as `FILE#HEADING`."""
    cited: tuple[str, ...]
    """The sections that the answer names, as `FILE#HEADING`."""
    violations: tuple[str, ...]
    """Findings of the audit, a sentence each."""
    latency_ms: float
    """Time from request to answer, in milliseconds."""
    queue_ms: float
    """Part of `latency_ms` spent waiting for the engine, in milliseconds."""
    engine_ms: float
    """Part of `latency_ms` spent in the engine, in milliseconds."""

    def refused_by(self, phrases: Sequence[str], unfinished_text: str) -> str:
        """The author of the refusal: a check, a rule, `MODEL` or `TOOL_LIMIT`; empty if the turn is no refusal.

        Args:
            phrases: refusal phrases of the contract.
            unfinished_text: the fixed text that ends a turn at the limit of tool-loop steps.
        """
        if self.finish_reason == FILTERED:
            return self.blocked_by
        if self.text.endswith(unfinished_text):
            return TOOL_LIMIT
        return MODEL if is_refusal(self.text, phrases) else ""
