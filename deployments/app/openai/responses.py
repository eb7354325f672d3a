"""Response schemas: the bodies of answers in the OpenAPI document.

They only describe the bodies: `chat.py`, `completions.py` and `embeddings.py` write them, and a test
validates what these write.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptTokensDetails(_Body):
    cached_tokens: int


class Usage(_Body):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ErrorDetail(_Body):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str


class Error(_Body):
    """An error: `code` is for programs, `message` for a person."""

    error: ErrorDetail


class TokenScore(_Body):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: tuple[()]


class ChatScores(_Body):
    content: list[TokenScore]
    refusal: None


class CalledFunction(_Body):
    name: str
    arguments: str


class ToolCalled(_Body):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ToolCallDelta(ToolCalled):
    index: int


class UrlCitation(_Body):
    """The passage that a part of the content used: its id as the URL, its headings, and the part's position."""

    url: str
    title: str
    start_index: int
    end_index: int


class Annotation(_Body):
    type: Literal["url_citation"]
    url_citation: UrlCitation


class AssistantMessage(_Body):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCalled] | None = None
    annotations: list[Annotation] | None = None


class ChatChoice(_Body):
    index: Literal[0]
    message: AssistantMessage
    logprobs: ChatScores | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class ChatCompletion(_Body):
    """`model` is the digest of the package that answered."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: tuple[ChatChoice]
    usage: Usage


class ChatDelta(_Body):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    annotations: list[Annotation] | None = None


class ChatChunkChoice(_Body):
    index: Literal[0]
    delta: ChatDelta
    logprobs: ChatScores | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None


class ChatChunk(_Body):
    """One event of a chat completion's stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: tuple[ChatChunkChoice] | tuple[()]
    usage: Usage | None = None


class CompletionScores(_Body):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(_Body):
    index: Literal[0]
    text: str
    logprobs: CompletionScores | None
    finish_reason: Literal["stop", "length", "content_filter"] | None


class Completion(_Body):
    """A whole completion, and each event of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: tuple[CompletionChoice] | tuple[()]
    usage: Usage | None = None


class Embedding(_Body):
    """A vector as numbers, or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(_Body):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(_Body):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(_Body):
    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["graft"]


class Models(_Body):
    object: Literal["list"]
    data: list[Model]


class CanaryShare(_Body):
    digest: str
    percent: float


class Health(_Body):
    status: str
    production: str | None
    canary: CanaryShare | None
    shadow: str | None
    served: list[str]
