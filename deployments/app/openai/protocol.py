"""What OpenAI's ways to ask for text have in common: how `Turns` reads their requests and writes their answers.

`chat.py` and `completions.py` are the two ways.
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
    """What every body of one answer begins with; `created` in Unix seconds."""

    trace_id: str
    created: int
    model: str

    def body(self, prefix: str, kind: str) -> dict[str, Any]:
        return {"id": f"{prefix}-{self.trace_id}", "object": kind, "created": self.created, "model": self.model}


class Writer(Protocol):
    """Writes one answer: `whole` in one piece, or `begin`, then `add` for each delta, then `end` for a stream."""

    def whole(self, finished: TurnEnd) -> dict[str, Any]: ...

    def begin(self) -> Iterator[dict[str, Any]]: ...

    def add(self, delta: Delta) -> Iterator[dict[str, Any]]: ...

    def end(self, finished: TurnEnd) -> Iterator[dict[str, Any]]: ...


@dataclass(frozen=True)
class Api(Generic[R]):
    """One way to ask: its name in telemetry (OpenTelemetry's `gen_ai.operation.name`), request and writer."""

    operation: str
    request: type[R]
    writer: Callable[[R, Head], Writer]


def usage(finished: TurnEnd) -> dict[str, Any]:
    """Tokens of a turn; the completion's hold its end of turn."""
    prompt, completion = finished.generation.prompt_tokens, finished.generation.completion_tokens
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**counted, "prompt_tokens_details": {"cached_tokens": finished.cached_tokens}}
