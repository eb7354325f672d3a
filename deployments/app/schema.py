"""OpenAI's chat-completion request as it is accepted here, and the shapes of what is sent back.

Fields that would change the answer and are not supported are refused, with a sentence that says
so; fields that change nothing here (`user`, `metadata`, …) are accepted and ignored; fields that
OpenAI does not know are refused as OpenAI refuses them. `null` always means "not given".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deployments.app.errors import ApiError
from deployments.events import Ask
from tasks.records import Message

_GREEDY_BELOW = 0.01
_SMALLEST_TOP_P = 1e-6


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class TextPart(_Part):
    """A piece of text in a list of contents; images and sound are not supported."""

    type: Literal["text"]
    text: str


class FunctionCall(_Part):
    name: str
    arguments: str


class ToolCallPart(_Part):
    """A call that the assistant made earlier in the conversation."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(_Part):
    """One message. Its other fields (`name`, `refusal`, …) are accepted, and not shown to the model."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[TextPart, ...] | None = None
    tool_calls: tuple[ToolCallPart, ...] | None = None

    def to_message(self) -> Message:
        """The message as prompts know it.

        Raises:
            ValueError: a tool call's arguments are not a JSON object.
        """
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content or ())
        role = "system" if self.role == "developer" else self.role
        calls = [call.model_dump() for call in self.tool_calls or ()]
        return Message.model_validate({"role": role, "content": content, "tool_calls": calls})


class Function(_Part):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @field_validator("parameters")
    @classmethod
    def _with_properties(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and not isinstance(value.get("properties", {}), dict):
            raise ValueError("'properties' must be an object")
        return value


class Tool(_Part):
    type: Literal["function"]
    function: Function

    def to_schema(self) -> dict[str, Any]:
        """The tool as `data/prompts/tools.json` has them."""
        parameters = {"type": "object", "properties": {}, **(self.function.parameters or {})}
        function = {**self.function.model_dump(exclude_none=True), "parameters": parameters}
        return {"type": "function", "function": function}


class StreamOptions(_Part):
    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`.

    `temperature` is 0 unless given: greedy, because that is how a package was evaluated. What is
    asked for beyond the package's own limit of new tokens is cut to it, and the answer's
    `finish_reason` is then `length`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | tuple[str, ...] | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None

    # Supported at these values only.
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    modalities: tuple[Literal["text"], ...] | None = None

    # Accepted; they change nothing here.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    prediction: Any = None

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        strings = (value,) if isinstance(value, str) else value or ()
        if len(strings) > 4 or not all(strings):
            raise ValueError("expected at most 4 strings, none of them empty")
        return value

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias")
    @classmethod
    def _check_neutral(cls, value: object) -> object:
        if value:
            raise ValueError("not supported here; leave it out")
        return value

    @field_validator("response_format")
    @classmethod
    def _check_format(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type") != "text":
            raise ValueError("only {'type': 'text'} is supported here")
        return value

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_ask(self) -> Ask:
        """What a served package is asked.

        Raises:
            ApiError: a message cannot be read.
        """
        try:
            messages = tuple(message.to_message() for message in self.messages)
        except ValueError as error:
            message = "a tool call's arguments must be a JSON object, as a string"
            raise ApiError(400, "invalid_value", message, param="messages") from error
        hide = self.tool_choice == "none"
        tools = None if self.tools is None else tuple(tool.to_schema() for tool in self.tools)
        temperature = self.temperature or 0.0
        return Ask(
            messages=messages,
            tools=() if hide else tools,
            max_new_tokens=self.max_completion_tokens or self.max_tokens,
            # Colder than this is greedy to the eye, and overflows float32 on its way.
            temperature=temperature if temperature >= _GREEDY_BELOW else 0.0,
            top_p=1.0 if self.top_p is None else max(self.top_p, _SMALLEST_TOP_P),
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else self.stop or (),
            whole=not self.stream,
        )


def parse_request(body: bytes) -> ChatRequest:
    """Read a request's body.

    Raises:
        ApiError: 400, with the first field that is wrong.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from error
    if request.stream_options and not request.stream:
        message = "stream_options is only allowed when stream is true"
        raise ApiError(400, "invalid_value", message, param="stream_options")
    return request


def _explain(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    kind = first["type"]
    if kind == "json_invalid":
        return ApiError(400, "invalid_json", f"the body is not JSON in UTF-8: {first['msg']}")
    # Members of a union are named like "tuple[TextPart, ...]"; they are no part of a path.
    places = [str(place) for place in first["loc"] if isinstance(place, int) or str(place).isidentifier()]
    param = ".".join(places) or None
    if kind == "extra_forbidden":
        return ApiError(400, "unknown_parameter", f"Unrecognized request argument supplied: {param}", param=param)
    code = "missing_required_parameter" if kind == "missing" else "invalid_value"
    return ApiError(400, code, f"{param or 'body'}: {first['msg']}", param=param)


def completion(
    trace_id: str, created: int, model: str, choice: dict[str, Any], usage: dict[str, int]
) -> dict[str, Any]:
    """A whole answer."""
    head = {"id": f"chatcmpl-{trace_id}", "object": "chat.completion", "created": created, "model": model}
    return {**head, "choices": [{"index": 0, "logprobs": None, **choice}], "usage": usage}


def chunk(trace_id: str, created: int, model: str, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    """A piece of a streamed answer."""
    head = {"id": f"chatcmpl-{trace_id}", "object": "chat.completion.chunk", "created": created, "model": model}
    return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens of a turn; the completion's hold its end of turn."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}
