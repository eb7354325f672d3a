"""What the HTTP side asks of a served package, and what comes back."""

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
    """A conversation that wants its next turn, or a `text` that wants to be continued as it stands.

    `tools` None shows the package's own, which are the shop's: they are run here, for `customer`
    (None: somebody unknown). `key` names the request, so that what is asked again is not done again.
    `must_call` are those of which one must be called, and nothing said. The whole text is held to the
    constraint of `sampling`, else its calls to their tools. Of a `whole` answer nobody sees a part, so
    its events may begin again from the start.
    """

    messages: tuple[Message, ...] = ()
    sampling: SamplingParams = GREEDY
    text: str | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    must_call: tuple[str, ...] = ()
    whole: bool = False
    customer: str | None = None
    key: str = ""

    @property
    def may_use_tools(self) -> bool:
        """Whether the answer may be found by the shop's own tools: with scores, each token is shown as it comes."""
        free_text = self.sampling.constraint is None and not self.sampling.logprobs
        return self.tools is None and self.text is None and free_text


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the text, which may be part of a character, and its log-probability (natural)."""

    bytes: bytes
    logprob: float

    @property
    def token(self) -> str:
        """As text, as far as it is any."""
        return self.bytes.decode(errors="replace")


class Citation(Record):
    """A passage that an answer used: its chunk's id and headings, and where in the answer, in characters."""

    chunk: str
    title: str
    start: int
    end: int


@dataclass(frozen=True)
class Delta:
    """New text, as the model wrote it (empty while it is held back), and how many tokens there are so far.

    `logprobs` has the new tokens without an end of turn, if they were asked for; `deeds` are the
    tools that were run in the turn so far.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()


class ToolStep(Record):
    """A tool that the model asked for, what came of it (`ok` or an error's code), and what the rules said.

    `found` names what checks took out of its result before the model read it.
    """

    tool: str
    outcome: str
    decisions: tuple[Decision, ...] = ()
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class TurnEnd:
    """The whole turn: raw, parsed and measured. The last event of a turn that went well.

    What the last step gave is here only, so the deltas before may hold less than the whole.
    `cached_tokens` of the prompt were not computed: the engine had kept them, or a whole answer was
    at hand. `steps` are the tools that were run on the way to it, `deeds` their results; the tokens of
    all rounds are counted. `features` is None where no model was asked. Where tools were run, `first` is
    the round that asked for the first of them.
    """

    generation: Generation
    answer: ParsedAnswer
    features: ResponseFeatures | None
    queue_ms: float
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    steps: tuple[ToolStep, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    citations: tuple[Citation, ...] = ()
    first_round: TurnEnd | None = None


@dataclass(frozen=True)
class Refusal:
    """Why there is no turn: an HTTP status, a code and a sentence. The last event where it occurs.

    `param` is the request's field that is at fault, where it is one.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    param: str | None = None


Event = Delta | TurnEnd | Refusal

OVERLOADED = "overloaded"
"""The code of a refusal for want of room, which is no fault of the model."""


@dataclass(frozen=True)
class EmbeddingResult:
    """Vectors [texts, dimensions] of length 1, and how many tokens all texts have."""

    vectors: npt.NDArray[np.float32]
    tokens: int


class Backend(Protocol):
    """Reaches served packages by the name of their application."""

    def stream(self, app: str, ask: TurnRequest) -> AsyncGenerator[Event]:
        """The events of one turn. Closing it ends the work for it."""
        ...


class EmbeddingBackend(Protocol):
    """Reaches served retrieval models by the name of their application."""

    async def embed(self, app: str, texts: tuple[str, ...]) -> EmbeddingResult | Refusal:
        """The vectors of `texts`. Cancelling it ends the work for it."""
        ...


Vectors = NDArray[np.float32]


Embedder = Callable[[Sequence[str]], Awaitable[Vectors]]
"""Texts to vectors, float32 [n, d], each of length 1."""


Events = AsyncGenerator[Event]
