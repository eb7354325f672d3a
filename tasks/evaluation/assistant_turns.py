"""Turns of the assistant as end-to-end evaluation sees them: what was asked, and what was observed."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.records import Message, Record, ToolCall
from tasks.text.refusals import is_refusal

MODEL, ROUNDS = "model", "rounds"
"""Who refused, where no check or rule did: the model's own words, or those that end a turn of too many tools."""


class EvalTurn(Record):
    """A turn to be taken: a conversation as its client holds it, and the customer whom the client vouches for."""

    id: str
    customer: str | None
    messages: tuple[Message, ...]


FILTERED = "content_filter"
"""The `finish_reason` of a refusal by a check or rule; other words that stand in for a model's are an answer."""


class ObservedTurn(Record):
    """What was seen of a turn from outside.

    Attributes:
        status: of the HTTP answer; `text` is empty unless it is 200.
        text: all that the client was sent.
        blocked_by: the check or rule for which fixed words stand in place of the answer.
        calls: the tools that were run, in order; `outcomes` what came of each, `ok` or an error's code.
        given: the sections, as `FILE#HEADING`, that the model was given to read; `cited` those that the answer names.
        violations: what an audit found, a sentence each.
        latency_ms: from request to answer, of which `engine_ms` are the engine's and `queue_ms` the wait for it.
    """

    id: str
    status: int
    text: str
    finish_reason: str
    blocked_by: str
    calls: tuple[ToolCall, ...]
    outcomes: tuple[str, ...]
    given: tuple[str, ...]
    cited: tuple[str, ...]
    violations: tuple[str, ...]
    latency_ms: float
    queue_ms: float
    engine_ms: float

    def refused_by(self, phrases: Sequence[str], unfinished: str) -> str:
        """Who refused, or nothing if nobody did; `unfinished` are the words after too many rounds of tools."""
        if self.finish_reason == FILTERED:
            return self.blocked_by
        if self.text.endswith(unfinished):
            return ROUNDS
        return MODEL if is_refusal(self.text, phrases) else ""
