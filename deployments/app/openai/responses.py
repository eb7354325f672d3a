"""Response schemas: the bodies of answers in the OpenAPI document.

They only describe the bodies: `chat.py`, `completions.py` and `embeddings.py` write them, and a test
validates what these write.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PromptTokensDetails(_Body):
    """The prompt's tokens in detail."""

    cached_tokens: int
    """Tokens that were not computed, as a cache had them."""


class Usage(_Body):
    """Tokens, over all model calls of the turn."""

    prompt_tokens: int
    """Tokens of the prompts."""
    completion_tokens: int
    """Generated tokens."""
    total_tokens: int
    """The sum of both."""
    prompt_tokens_details: PromptTokensDetails
    """The prompt's tokens in detail."""


class ErrorDetail(_Body):
    """The error."""

    message: str
    """The problem and its remedy, for a person."""
    type: Literal["invalid_request_error", "server_error"]
    """`invalid_request_error` below status 500, else `server_error`."""
    param: str | None
    """The request's field that is at fault."""
    code: str
    """The error code, for programs."""


class Error(_Body):
    """An error: `code` is for programs, `message` for a person."""

    error: ErrorDetail
    """The error."""


class TokenScore(_Body):
    """A token and its log-probability."""

    token: str
    """The token as text."""
    logprob: float
    """Natural logarithm of its probability."""
    bytes: list[int]
    """The token in UTF-8."""
    top_logprobs: tuple[()]
    """Always empty."""


class ChatScores(_Body):
    """Log-probabilities of a chat's answer."""

    content: list[TokenScore]
    """The tokens of the content."""
    refusal: None
    """Always null."""


class CalledFunction(_Body):
    """A function and its arguments."""

    name: str
    """Name of the tool."""
    arguments: str
    """Arguments as the text of a JSON object."""


class ToolCalled(_Body):
    """A call of one of the client's tools, which the client runs."""

    id: str
    """Id of the call."""
    type: Literal["function"]
    """The kind of tool."""
    function: CalledFunction
    """The function and its arguments."""


class ToolCallDelta(ToolCalled):
    """A call in a stream, always whole."""

    index: int
    """Position of the call in the message."""


class UrlCitation(_Body):
    """The passage that a part of the content used: its id as the URL, its headings, and the part's position."""

    url: str
    """Id of the passage."""
    title: str
    """Headings of the passage."""
    start_index: int
    """First character of the citing part."""
    end_index: int
    """End of the citing part, in characters."""


class Annotation(_Body):
    """A citation of a passage."""

    type: Literal["url_citation"]
    """The kind of annotation."""
    url_citation: UrlCitation
    """The citation."""


class AssistantMessage(_Body):
    """The answer."""

    role: Literal["assistant"]
    """Author of the message."""
    content: str | None
    """The text; null beside tool calls alone."""
    refusal: None
    """Always null; a refusal is content."""
    tool_calls: list[ToolCalled] | None = None
    """Calls of the client's tools."""
    annotations: list[Annotation] | None = None
    """Citations of passages."""


class ChatChoice(_Body):
    """The one answer of a chat."""

    index: Literal[0]
    """Always 0."""
    message: AssistantMessage
    """The answer."""
    logprobs: ChatScores | None
    """Log-probabilities, if they were requested."""
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]
    """The reason for the end; `content_filter`: a guardrail or a rule replaced the answer."""


class ChatCompletion(_Body):
    """An answer to a chat."""

    id: str
    """Id of the answer."""
    object: Literal["chat.completion"]
    """The kind of body."""
    created: int
    """Time of the request, in seconds since 1970."""
    model: str
    """Digest of the package that answered."""
    choices: tuple[ChatChoice]
    """The one answer."""
    usage: Usage
    """Tokens of the turn."""


class ChatDelta(_Body):
    """A part of the answer."""

    role: Literal["assistant"] | None = None
    """Author of the message, in the first event."""
    content: str | None = None
    """New text."""
    tool_calls: list[ToolCallDelta] | None = None
    """Calls of the client's tools."""
    annotations: list[Annotation] | None = None
    """Citations of passages."""


class ChatChunkChoice(_Body):
    """A part of the one answer."""

    index: Literal[0]
    """Always 0."""
    delta: ChatDelta
    """The new part."""
    logprobs: ChatScores | None
    """Log-probabilities of the new tokens, if they were requested."""
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None
    """The reason for the end, in the last part."""


class ChatChunk(_Body):
    """One event of a chat completion's stream."""

    id: str
    """Id of the answer."""
    object: Literal["chat.completion.chunk"]
    """The kind of body."""
    created: int
    """Time of the request, in seconds since 1970."""
    model: str
    """Digest of the package that answered."""
    choices: tuple[ChatChunkChoice] | tuple[()]
    """The new part; empty in the event of the usage."""
    usage: Usage | None = None
    """Tokens of the turn, in an event of their own, if they were requested."""


class CompletionScores(_Body):
    """Log-probabilities of a completion."""

    tokens: list[str]
    """The tokens as text."""
    token_logprobs: list[float]
    """Natural logarithm of the probability of each."""
    top_logprobs: list[dict[str, float]]
    """An empty mapping per token."""
    text_offset: list[int]
    """First character of each token."""


class CompletionChoice(_Body):
    """The one text of a completion."""

    index: Literal[0]
    """Always 0."""
    text: str
    """The text, or the new part of it."""
    logprobs: CompletionScores | None
    """Log-probabilities, if they were requested."""
    finish_reason: Literal["stop", "length", "content_filter"] | None
    """The reason for the end; null in a stream before it."""


class Completion(_Body):
    """A whole completion, and each event of a streamed one."""

    id: str
    """Id of the answer."""
    object: Literal["text_completion"]
    """The kind of body."""
    created: int
    """Time of the request, in seconds since 1970."""
    model: str
    """Digest of the package that answered."""
    choices: tuple[CompletionChoice] | tuple[()]
    """The text; empty in the event of the usage."""
    usage: Usage | None = None
    """Tokens of the turn."""


class Embedding(_Body):
    """A vector as numbers, or as base64 of little-endian float32."""

    object: Literal["embedding"]
    """The kind of body."""
    index: int
    """Position of the text in the request."""
    embedding: list[float] | str
    """The vector."""


class EmbeddingUsage(_Body):
    """Tokens of the texts."""

    prompt_tokens: int
    """Tokens of all texts."""
    total_tokens: int
    """The same."""


class EmbeddingList(_Body):
    """Vectors of texts."""

    object: Literal["list"]
    """The kind of body."""
    data: list[Embedding]
    """A vector per text, in the request's order."""
    model: str
    """Digest of the retrieval model."""
    usage: EmbeddingUsage
    """Tokens of the texts."""


class Model(_Body):
    """A served model."""

    id: str
    """Digest of the package or of the retrieval model."""
    object: Literal["model"]
    """The kind of body."""
    created: int
    """Time since which it is served, in seconds since 1970."""
    owned_by: Literal["graft"]
    """Always `graft`."""


class Models(_Body):
    """All served models."""

    object: Literal["list"]
    """The kind of body."""
    data: list[Model]
    """The models."""


class CanaryShare(_Body):
    """The canary and its share of the users."""

    digest: str
    """Digest of the canary."""
    percent: float
    """Percentage of production's users that it answers."""


class Health(_Body):
    """The state of the service."""

    status: str
    """`ok`, or the reason for status 503."""
    production: str | None
    """Digest of the package in production."""
    canary: CanaryShare | None
    """The canary, if there is one."""
    shadow: str | None
    """Digest of the package that receives shadow traffic, if there is one."""
    served: list[str]
    """Digests of all served packages."""
