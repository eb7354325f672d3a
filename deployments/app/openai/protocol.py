"""Protocol of OpenAI's text APIs: how `ChatService` reads their requests and writes their answers.

`chat.py` and `completions.py` are the two APIs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from deployments.app.openai.requests import TextRequest
from deployments.core.messages import Delta, TurnEnd

R = TypeVar("R", bound=TextRequest)


@dataclass(frozen=True)
class Head:
    """The fields with which every body of one answer begins."""

    trace_id: str
    """The turn's trace id."""
    created: int
    """When the request arrived, in Unix seconds."""
    model: str
    """The model id: the digest of the package that answers."""

    def body(self, prefix: str, kind: str) -> dict[str, Any]:
        """The fields as JSON, for an id with `prefix` and an object of `kind`."""
        return {"id": f"{prefix}-{self.trace_id}", "object": kind, "created": self.created, "model": self.model}


class Writer(Protocol):
    """Writes one answer: `whole` as one body, or a stream by `begin`, then `add` for each delta, then `end`."""

    def whole(self, end: TurnEnd) -> dict[str, Any]:
        """The body of the whole answer."""

    def begin(self) -> Iterator[dict[str, Any]]:
        """The events before the first delta."""

    def add(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The events for new text."""

    def end(self, end: TurnEnd) -> Iterator[dict[str, Any]]:
        """The events after the last delta."""


@dataclass(frozen=True)
class Api(Generic[R]):
    """One API for text."""

    operation: str
    """Its name in telemetry, as OpenTelemetry's `gen_ai.operation.name`."""
    request: type[R]
    """The model of its request body."""
    writer: Callable[[R, Head], Writer]
    """Constructs the writer of one answer."""


def usage(end: TurnEnd) -> dict[str, Any]:
    """The turn's token usage; completion tokens include the end of turn."""
    prompt, completion = end.generation.prompt_tokens, end.generation.completion_tokens
    totals = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**totals, "prompt_tokens_details": {"cached_tokens": end.cached_tokens}}
