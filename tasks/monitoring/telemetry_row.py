"""Telemetry row schema: one row per answer, without the customer's words."""

from __future__ import annotations

import json
import re
import types
from typing import Any, Union, get_args, get_origin

import pyarrow as pa
from pydantic import AwareDatetime, ValidationInfo, field_validator

from tasks.core.records import Record

UNLISTED = "(unlisted)"
"""Stands for a text that a row may not hold."""
_ALLOWED = re.compile(r"[\w .,:;/#+=()@'’!?£$€%\[\]-]{0,400}")  # noqa: RUF001 (the apostrophe of printed text)
"""Names, ids, codes and the rules' own sentences. Whatever a row holds is shown to operators: in HTML, Markdown, and
terminals, where `<`, `|`, a backtick and control characters mean something."""
_JSON_COLUMNS = ("steps", "passages", "findings", "decisions", "shadow")

REDTEAM_OWNER = "redteam"
"""The owner of the API key that `graft redteam` uses, if there is one of that name: its rows are not customers'."""


_COLUMN_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    AwareDatetime: pa.timestamp("us", tz="UTC"),
}


class TelemetryRow(Record):
    """One answer. Times are measured where the HTTP request arrives, so they include the wait in the queue.

    A column that could not be measured is None. The columns from `user_chars` on are those of
    `tasks.evaluation.response_features.ResponseFeatures`, of the turn's first model call. The row of a truncated
    answer has the tokens generated so far.
    """

    trace_id: str
    """The request's id; a shadow row has that of the production request that it copies."""
    at: AwareDatetime
    """The time of the request, with a time zone."""
    digest: str
    """The package that answered; empty where no package was chosen."""
    status: int
    """The HTTP status; for a stream the status that it would have had if it had failed before it began."""
    error: str
    """The error's code; empty without an error."""
    stream: bool
    """Whether the client requested a stream."""
    latency_ms: float
    """The time to the end of the answer, in milliseconds."""
    operation: str = "chat"
    """The kind of request, by OpenTelemetry's names (`chat`, `text_completion`, `embeddings`); rows from before this
    column have none. A row of the operation `shadow` is no answer to a user: a package received a copy of a request
    that production had answered under the same `trace_id`, and its answer was not shown."""
    owner: str = ""
    """The name of the API key's owner; empty where no key was recognized."""
    visitor: str = ""
    """The pseudonymous user id (`deployments.app.access.pseudonyms`): the same in all chats and completions of one
    customer, or of one conversation of an unidentified user, without revealing the user's identity; empty where the
    request could not be read."""
    route: str = ""
    """The route that answered or was tried last: `canary`, `production`, `previous`, `words` (the static fallback
    message), or `digest` where the client requested a digest."""
    meant: str = ""
    """The digest of the intended package, which remains the canary's where another package answered instead."""
    passed_over: str = ""
    """The routes that were skipped before, each with its reason."""
    retries: int = 0
    """The number of attempts on the route after the first."""
    cache: str = ""
    """The result of the cache lookup: `hit`, `semantic`, `miss`, `off`, or empty if the request ended before it."""
    first_token_ms: float | None = None
    """The time to the first token, in milliseconds."""
    queue_ms: float | None = None
    """The wait in the queue, in milliseconds."""
    cached_tokens: int | None = None
    """The number of prompt tokens that came from the prefix cache, over all model calls of the turn."""
    all_prompt_tokens: int | None = None
    """The number of prompt tokens over all model calls of the turn."""
    all_completion_tokens: int | None = None
    """The number of generated tokens over all model calls of the turn."""
    engine_ms: float | None = None
    """The engine's time over all model calls of the turn, in milliseconds."""
    steps: str = ""
    """The turn's tool calls and the decisions of the rules on them, as JSON."""
    passages: str = ""
    """The ids of the passages that the model could look up, as JSON."""
    findings: str = ""
    """The result of each guardrail check, with its time in milliseconds, as JSON."""
    decisions: str = ""
    """The decisions of the rules on the answer, as JSON."""
    blocked_by: str = ""
    """The check or rule because of which a fixed sentence replaces the answer, or its rest; empty without one."""
    shadow: str = ""
    """In a row of the operation `shadow`, the comparison of its answer with production's, as JSON."""
    user_chars: int | None = None
    """The length of the last user message, in characters."""
    turns: int | None = None
    """The number of user turns."""
    prompt_tokens: int | None = None
    """The length of the prompt, in tokens."""
    completion_tokens: int | None = None
    """The length of the answer, in tokens."""
    answer_chars: int | None = None
    """The length of the answer's text, in characters."""
    finish_reason: str | None = None
    """The reason for the end of generation, such as `stop` or `length`."""
    tool_name: str | None = None
    """The tool that the model called; empty without a call."""
    refused: bool | None = None
    """Whether the answer is a refusal."""
    valid_format: bool | None = None
    """Whether the answer could be parsed."""

    @field_validator("*")
    @classmethod
    def _only_allowed_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Replace each text that is not of the allowed characters, so that no way into a row is forgotten."""
        if not isinstance(value, str) or not value:
            return value
        if info.field_name in _JSON_COLUMNS:
            return json.dumps(allowed(json.loads(value)), ensure_ascii=False, separators=(",", ":"))
        return allowed(value)


def allowed(value: Any) -> Any:
    """A JSON value with `UNLISTED` for each text, also of keys, that a row may not hold."""
    if isinstance(value, str):
        return value if _ALLOWED.fullmatch(value) else UNLISTED
    if isinstance(value, list):
        return [allowed(item) for item in value]
    if isinstance(value, dict):
        return {allowed(key): allowed(item) for key, item in value.items()}
    return value


def _column_type(annotation: Any) -> pa.DataType:
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not types.NoneType)
    return _COLUMN_TYPES[annotation]


SCHEMA = pa.schema([(name, _column_type(field.annotation)) for name, field in TelemetryRow.model_fields.items()])
"""The columns of a Parquet part, in the row's order."""
