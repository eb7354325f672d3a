"""The protocol between the HTTP side and a replica: a request for a turn, and the stream of events that answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from tasks.core.records import Message, Record
from tasks.engine.protocol import GREEDY, Generation, SamplingParams
from tasks.evaluation.response_features import ResponseFeatures
from tasks.prompt.tool_calls import ParsedAnswer
from tasks.tools.policy import Decision, ToolResult


@dataclass(frozen=True)
class TurnRequest:
    """A conversation whose next assistant turn is requested, or a text to continue."""

    messages: tuple[Message, ...] = ()
    """The conversation, oldest message first; empty where `text` is set."""
    sampling: SamplingParams = GREEDY
    """How to decode. Without a constraint of its own the answer's tool calls are constrained to their schemas."""
    text: str | None = None
    """A text to continue as it stands, without chat template; None for a conversation."""
    tools: tuple[dict[str, Any], ...] | None = None
    """The client's tools as JSON schemas; None: the package's own, which are the shop's and run on the server."""
    must_call: tuple[str, ...] = ()
    """Names of tools; the turn is then nothing but a call of one of them."""
    whole: bool = False
    """Whether the client receives no part before the end, so that the events may start over."""
    customer: str | None = None
    """The customer on whose behalf the shop's tools run; None: unknown."""
    key: str = ""
    """Idempotency key of the request: a repeated request does not repeat a tool's effect."""

    @property
    def may_use_tools(self) -> bool:
        """Whether the shop's tools may run. They may not with log-probabilities, which name every token as it comes."""
        free_text = self.sampling.constraint is None and not self.sampling.logprobs
        return self.tools is None and self.text is None and free_text


@dataclass(frozen=True)
class TokenLogprob:
    """One token of the text with its log-probability."""

    bytes: bytes
    """The token in UTF-8; it may be part of a character."""
    logprob: float
    """Natural logarithm of its probability."""

    @property
    def token(self) -> str:
        """The token as text, with a replacement character for an incomplete character."""
        return self.bytes.decode(errors="replace")


class Citation(Record):
    """A passage that an answer used."""

    chunk: str
    """The passage's id."""
    title: str
    """The passage's headings."""
    start: int
    """Where the citing sentence begins in the answer, in characters."""
    end: int
    """Where the citing sentence ends in the answer, in characters."""


@dataclass(frozen=True)
class Delta:
    """An event with new text, as the model wrote it."""

    text: str
    """The new text; empty while it is held back."""
    prompt_tokens: int
    """Tokens of the prompt, of all model calls of the turn so far."""
    completion_tokens: int
    """Tokens generated in the turn so far."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The new tokens without an end of turn, if log-probabilities were requested."""
    tool_results: tuple[ToolResult, ...] = ()
    """Results of the tools that have run in the turn so far."""


class ToolStep(Record):
    """One tool call of a turn, as telemetry records it."""

    tool: str
    """The tool's name."""
    outcome: str
    """`ok`, or the error code of the result."""
    decisions: tuple[Decision, ...] = ()
    """Decisions of the call rules."""
    found: tuple[str, ...] = ()
    """Guardrail findings: what was removed from the result before the model read it."""


@dataclass(frozen=True)
class TurnEnd:
    """The last event of a successful turn: the whole of it, which may hold text that no delta had."""

    generation: Generation
    """The raw text with tokens, finish reason and times; the tokens of all model calls are counted."""
    answer: ParsedAnswer
    """The parsed text: content and tool calls."""
    features: ResponseFeatures | None
    """Measured features of the response; None where a guardrail refused before the model ran."""
    queue_ms: float
    """Time in the engine's queue, in milliseconds."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """All tokens, if log-probabilities were requested."""
    cached_tokens: int = 0
    """Prompt tokens that were not computed, as the engine's prefix cache or the answer cache had them."""
    steps: tuple[ToolStep, ...] = ()
    """The tool calls of the turn, in order."""
    tool_results: tuple[ToolResult, ...] = ()
    """The results of those calls, without the lookup tool's."""
    citations: tuple[Citation, ...] = ()
    """The passages that the answer used."""
    first_round: TurnEnd | None = None
    """End of the first model call, which requested the first tool; None where no tool ran."""


@dataclass(frozen=True)
class Refusal:
    """The last event of a turn that was refused or failed."""

    status: int
    """HTTP status."""
    code: str
    """Error code for programs."""
    message: str
    """A sentence for a person."""
    retry_after_s: int | None = None
    """Seconds after which a retry is useful (`Retry-After`)."""
    param: str | None = None
    """The request's field that is at fault, if it is one."""


Event = Delta | TurnEnd | Refusal

OVERLOADED = "overloaded"
"""The code of a refusal for lack of capacity, which is no failure of the model."""


@dataclass(frozen=True)
class EmbeddingResult:
    """The embeddings of a batch of texts."""

    vectors: npt.NDArray[np.float32]
    """Array [texts, dimensions] of unit vectors."""
    tokens: int
    """Tokens of all texts together."""


class Backend(Protocol):
    """Reaches served packages by the name of their Serve application."""

    def stream(self, app: str, request: TurnRequest) -> AsyncGenerator[Event]:
        """The events of one turn. Closing the generator cancels the work."""
        ...


class EmbeddingBackend(Protocol):
    """Reaches served retrieval models by the name of their Serve application."""

    async def embed(self, app: str, texts: tuple[str, ...]) -> EmbeddingResult | Refusal:
        """The vectors of `texts`. Cancelling the call cancels the work."""
        ...


Vectors = NDArray[np.float32]


Embedder = Callable[[Sequence[str]], Awaitable[Vectors]]
"""Texts to vectors: float32 [n, d], each of length 1."""


Events = AsyncGenerator[Event]
