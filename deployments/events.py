"""What the HTTP side asks of a served package, and what comes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.engine.protocol import Generation
from tasks.features import Features
from tasks.prompt import Answer
from tasks.records import Message


@dataclass(frozen=True)
class Ask:
    """A conversation that wants its next turn.

    `tools` None shows the package's own. `max_new_tokens` is lowered to the package's limit. Of a
    `whole` answer nobody sees a part, so its events may begin again from the start.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Delta:
    """New text, as the model wrote it."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The whole turn: raw, parsed and measured. The last event of a turn that went well."""

    generation: Generation
    answer: Answer
    features: Features
    queue_ms: float


@dataclass(frozen=True)
class Refused:
    """Why there is no turn: an HTTP status, a code and a sentence. The last event where it occurs."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None


Event = Delta | Finished | Refused


class Backend(Protocol):
    """Reaches served packages by the name of their application."""

    def ask(self, app: str, ask: Ask) -> AsyncGenerator[Event]:
        """The events of one turn. Closing it ends the work for it."""
        ...
