"""Request bodies of OpenAI's text APIs: the common fields, and chat completions.

Fields that would change the answer and are not supported are refused, with a sentence that names
them; fields that have no effect here (`metadata`, `store`, …) are accepted and ignored; fields that
OpenAI does not know are refused as OpenAI refuses them. `null` always means that a field is absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import from_json

from deployments.app.openai.errors import ApiError
from deployments.core.messages import TurnRequest
from tasks.core.records import Message
from tasks.engine.protocol import Constraint, JsonSchema, Regex, SamplingParams

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)
R = TypeVar("R", bound="TextRequest")
StopString = Annotated[str, Field(min_length=1)]

_GREEDY_BELOW = 0.01
_SMALLEST_TOP_P = 1e-6


def only(neutral: int | str | dict[str, JsonValue]) -> tuple[AfterValidator, FieldInfo]:
    """Annotations of a field that is accepted only at the value that has no effect."""

    def check(value: T) -> T:
        if value != neutral:
            raise ValueError("not supported here; leave it out")
        return value

    return AfterValidator(check), Field(json_schema_extra={"const": neutral})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, use_attribute_docstrings=True)


class TextPart(_Part):
    """Text in a list of contents; images and audio are not supported."""

    type: Literal["text"]
    """The kind of part."""
    text: str
    """The text."""


class FunctionCall(_Part):
    """The function that was called."""

    name: str
    """Name of the tool."""
    arguments: str
    """Arguments as the text of a JSON object."""


class ToolCallPart(_Part):
    """A call that the assistant made earlier in the conversation."""

    id: str | None = None
    """Id of the call; not shown to the model."""
    type: Literal["function"] = "function"
    """The kind of tool."""
    function: FunctionCall
    """The call."""


class ChatMessage(_Part):
    """One message. Its other fields (`name`, `refusal`, …) are accepted, and not shown to the model."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Author of the message; `developer` is read as `system`."""
    content: str | tuple[TextPart, ...] | None = None
    """Text, or parts of text, which are joined."""
    tool_calls: tuple[ToolCallPart, ...] | None = None
    """Calls of an assistant's message."""

    def to_message(self) -> Message:
        """The message as prompt templates use it.

        Raises:
            ValueError: a tool call's arguments are not a JSON object.
        """
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content or ())
        role = "system" if self.role == "developer" else self.role
        calls = [call.model_dump() for call in self.tool_calls or ()]
        return Message.model_validate({"role": role, "content": content, "tool_calls": calls})


class Function(_Part):
    """A function that the client offers."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    """Name by which the model calls it."""
    description: str | None = None
    """Sentence that describes it to the model."""
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments."""

    @field_validator("parameters")
    @classmethod
    def _with_properties(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and not isinstance(value.get("properties", {}), dict):
            raise ValueError("'properties' must be an object")
        return value


class Tool(_Part):
    """A tool that the client offers, and runs itself."""

    type: Literal["function"]
    """The kind of tool."""
    function: Function
    """The function."""

    def to_schema(self) -> dict[str, Any]:
        """The tool in the format of `data/prompts/tools.json`."""
        parameters = {"type": "object", "properties": {}, **(self.function.parameters or {})}
        function = {**self.function.model_dump(exclude_none=True), "parameters": parameters}
        return {"type": "function", "function": function}


class ChosenFunction(_Part):
    """The function that must be called."""

    name: str
    """Name of one of the request's `tools`."""


class ChosenTool(_Part):
    """The tool that must be called."""

    type: Literal["function"]
    """The kind of tool."""
    function: ChosenFunction
    """The function."""


class StreamOptions(_Part):
    """Options of a stream."""

    include_usage: bool | None = None
    """Whether the last event before `[DONE]` has the `usage`."""


class TextFormat(_Part):
    """Any text."""

    type: Literal["text"]
    """The kind of format."""

    def to_constraint(self) -> None:
        """No constraint: any text."""


class JsonObjectFormat(_Part):
    """Any JSON object."""

    type: Literal["json_object"]
    """The kind of format."""

    def to_constraint(self) -> JsonSchema:
        """Any JSON object."""
        return JsonSchema('{"type": "object"}')


class NamedSchema(_Part):
    """A JSON schema; it is enforced whether `strict` or not."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    """Name of the schema; without effect."""
    description: str | None = None
    """Purpose of the schema; without effect."""
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    """The JSON schema."""
    strict: bool | None = None
    """Without effect."""


class JsonSchemaFormat(_Part):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    """The kind of format."""
    json_schema: NamedSchema
    """The schema, with its name."""

    def to_constraint(self) -> JsonSchema:
        """JSON that the schema allows, with properties in the schema's order."""
        return JsonSchema(json.dumps(self.json_schema.schema_))


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StructuredOutputs(_Part):
    """A regular expression for the whole answer. Not OpenAI's: the name and shape are vLLM's."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    regex: Annotated[str, Field(min_length=1)]
    """The regular expression."""


class TextRequest(BaseModel):
    """The fields that all requests for text share."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    model: str
    """`production`, the name of the package in production, or the digest of a served package."""
    stream: bool | None = None
    """Whether the answer is a stream of server-sent events."""
    stream_options: StreamOptions | None = None
    """Options of a stream; refused without `stream`."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; default: 0, greedy decoding, because that is how a package was evaluated."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Probability mass of the tokens that are sampled from; default: 1."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Limit of generated tokens. One above the package's own limit is reduced to it, and the answer's
    `finish_reason` is then `length`."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Random seed, which makes sampling repeatable."""
    stop: StopString | Annotated[tuple[StopString, ...], Field(max_length=4)] | None = None
    """Stop strings: the answer ends before the first that appears."""
    structured_outputs: StructuredOutputs | None = None
    """A regular expression that the whole answer must match (vLLM's field)."""

    n: Annotated[int, *only(1)] | None = None
    """Number of answers."""
    frequency_penalty: Annotated[float, *only(0)] | None = None
    """Not supported."""
    presence_penalty: Annotated[float, *only(0)] | None = None
    """Not supported."""
    logit_bias: Annotated[dict[str, float], *only({})] | None = None
    """Not supported."""

    user: Annotated[str, Field(max_length=256)] | None = None
    """The customer on whose behalf the shop's tools run; the application that holds the API key vouches for it."""

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def constraint(self) -> Constraint | None:
        """The constraint on the whole answer."""
        return Regex(self.structured_outputs.regex) if self.structured_outputs else None

    def to_turn_request(self) -> TurnRequest:
        """The request as a served package gets it.

        Raises:
            ApiError: the request is not valid for any package.
        """
        return TurnRequest(sampling=self._sampling(), customer=self.user or None)

    def _sampling(self) -> SamplingParams:
        temperature = self.temperature or 0.0
        return SamplingParams(
            max_new_tokens=self.max_tokens,
            # A lower temperature is practically greedy, and overflows float32.
            temperature=temperature if temperature >= _GREEDY_BELOW else 0.0,
            top_p=1.0 if self.top_p is None else max(self.top_p, _SMALLEST_TOP_P),
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else self.stop or (),
            constraint=self.constraint,
        )


class ChatRequest(TextRequest):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    """The conversation, oldest message first."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """As `max_tokens`, and preferred to it."""
    tools: tuple[Tool, ...] | None = None
    """The client's tools, whose calls it runs itself; without the field, the shop's tools run on the server."""
    tool_choice: Literal["auto", "none", "required"] | ChosenTool | None = None
    """Whether a tool may be called (`auto`), may not (`none`), or must be (`required`, or one by name)."""
    parallel_tool_calls: bool | None = None
    """Whether an answer may call several tools; false: only the first call is returned. Default: true."""
    response_format: ResponseFormat | None = None
    """Format that the whole answer must have; excludes `structured_outputs`."""
    logprobs: bool | None = None
    """Whether to return the log-probability of each token."""

    top_logprobs: Annotated[int, *only(0)] | None = None
    """Not supported."""
    modalities: tuple[Literal["text"], ...] | None = None
    """Kinds of output."""

    metadata: Any = None
    """Without effect."""
    store: Any = None
    """Without effect."""
    service_tier: Any = None
    """Without effect."""
    safety_identifier: Any = None
    """Without effect."""
    prompt_cache_key: Any = None
    """Without effect."""
    prompt_cache_retention: Any = None
    """Without effect."""
    reasoning_effort: Any = None
    """Without effect."""
    verbosity: Any = None
    """Without effect."""
    prediction: Any = None
    """Without effect."""

    @property
    def constraint(self) -> Constraint | None:
        """See `TextRequest.constraint`.

        Raises:
            ApiError: there is more than one constraint.
        """
        constraint = self.response_format.to_constraint() if self.response_format else None
        if constraint and self.structured_outputs:
            message = "structured_outputs and response_format exclude each other"
            raise ApiError(400, "invalid_value", message, param="structured_outputs")
        return constraint or super().constraint

    def to_turn_request(self) -> TurnRequest:
        """See `TextRequest.to_turn_request`."""
        try:
            messages = tuple(message.to_message() for message in self.messages)
        except ValueError as error:
            message = "a tool call's arguments must be a JSON object, as a string"
            raise ApiError(400, "invalid_value", message, param="messages") from error
        tools = None if self.tools is None else tuple(tool.to_schema() for tool in self.tools)
        return replace(
            super().to_turn_request(),
            messages=messages,
            tools=() if self.tool_choice == "none" else tools,
            must_call=self._must_call(),
        )

    def _sampling(self) -> SamplingParams:
        sampling = super()._sampling()
        max_new_tokens = self.max_completion_tokens or sampling.max_new_tokens
        return replace(sampling, max_new_tokens=max_new_tokens, logprobs=bool(self.logprobs))

    def _must_call(self) -> tuple[str, ...]:
        """The client's tools of which one must be called, without any other text.

        Raises:
            ApiError: there is no such tool, or another constraint is requested too.
        """
        names = tuple(tool.function.name for tool in self.tools or ())
        if self.tool_choice == "required":
            chosen = names
        elif isinstance(self.tool_choice, ChosenTool):
            chosen = tuple(name for name in names if name == self.tool_choice.function.name)
        else:
            return ()
        if not chosen or self.constraint:
            message = "a tool that must be called has to be one of 'tools', and no other format may be asked for"
            raise ApiError(400, "invalid_value", message, param="tool_choice")
        return chosen


def read_request(model: type[B], body: bytes) -> B:
    """Parse a request's body.

    Raises:
        ApiError: 400, with the first invalid field.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error, body) from error


def parse_request(model: type[R], body: bytes) -> R:
    """Parse the body of a request for text.

    Raises:
        ApiError: 400, with the first invalid field.
    """
    request = read_request(model, body)
    if request.stream_options and not request.stream:
        message = "stream_options is only allowed when stream is true"
        raise ApiError(400, "invalid_value", message, param="stream_options")
    return request


def _explain(error: ValidationError, body: bytes) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    kind = first["type"]
    if kind == "json_invalid":
        return ApiError(400, "invalid_json", f"the body is not JSON in UTF-8: {first['msg']}")
    param = ".".join(_path(first["loc"], from_json(body), missing=kind == "missing")) or None
    if kind == "extra_forbidden":
        return ApiError(400, "unknown_parameter", f"Unrecognized request argument supplied: {param}", param=param)
    code = "missing_required_parameter" if kind == "missing" else "invalid_value"
    return ApiError(400, code, f"{param or 'body'}: {first['msg']}", param=param)


def _path(location: tuple[int | str, ...], value: Any, *, missing: bool) -> Iterator[str]:
    """The path of an error in `value`: pydantic's location without the names of a union's members."""
    for part in location:
        keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
        if part in keys:
            value = value[part]
            yield str(part)
    if missing:
        yield str(location[-1])
