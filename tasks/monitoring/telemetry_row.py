"""The schema of a telemetry row: one row per answer, without the customer's words."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

import pyarrow as pa
from pydantic import AwareDatetime

from tasks.core.records import Record

REDTEAM_OWNER = "redteam"
"""Whose key `graft redteam` asks with, if there is one of that name: its rows are no customers'."""


_COLUMN_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    AwareDatetime: pa.timestamp("us", tz="UTC"),
}


class TelemetryRow(Record):
    """One answer. Times are measured where HTTP arrives, so they hold the wait in the queue.

    `status` is the HTTP status, or the one that a stream would have had it failed before it began;
    `error` is empty when all went well. `operation` is what was asked for, by OpenTelemetry's names
    (`chat`, `text_completion`, `embeddings`); rows from before it was kept have none. A row of the
    operation `shadow` is no answer: a package was asked, unseen, what production had answered under the
    same `trace_id`, and `shadow` says as JSON how the two compare. `digest` is
    empty where no package was chosen, `owner` (the name of who asked) where no key was known. `visitor`
    is the same in all chats and completions of one customer, or of a conversation of nobody known, and
    tells nobody who that is (`deployments.app.access.pseudonyms`); it is empty where the request could not be read.
    `route` is who answered or was tried last: `canary`, `production`, `previous`, `words`, or `digest` where
    one was asked for; `meant` is the digest of the first choice, which stays the canary's where another
    answered in its place; `passed_over` are the routes before, each with its reason, and `retries`
    its attempts after the first. `cache` is how the answer was looked for: `hit`, `semantic`, `miss`,
    `off`, or empty if it came to nothing before. `all_prompt_tokens` and `all_completion_tokens` are
    those of all rounds of a turn, of whose prompts `cached_tokens` were not computed; `engine_ms` is
    what the engine took for them. As JSON: `steps` are its tools and what the rules said of them,
    `passages` the ids of the chunks that it could look up, `findings` what each safety check said and
    its milliseconds, `decisions` what the rules said of the answer. `blocked_by` is the check or rule
    for which fixed words stand in place of the answer, or of its rest. What could not be measured is
    None; the last fields are those of
    `tasks.evaluation.response_features.Features` of the first round, of which an answer that broke off has its tokens so far.
    """

    trace_id: str
    at: AwareDatetime
    digest: str
    status: int
    error: str
    stream: bool
    latency_ms: float
    operation: str = "chat"
    owner: str = ""
    visitor: str = ""
    route: str = ""
    meant: str = ""
    passed_over: str = ""
    retries: int = 0
    cache: str = ""
    first_token_ms: float | None = None
    queue_ms: float | None = None
    cached_tokens: int | None = None
    all_prompt_tokens: int | None = None
    all_completion_tokens: int | None = None
    engine_ms: float | None = None
    steps: str = ""
    passages: str = ""
    findings: str = ""
    decisions: str = ""
    blocked_by: str = ""
    shadow: str = ""
    user_chars: int | None = None
    turns: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    answer_chars: int | None = None
    finish_reason: str | None = None
    tool_name: str | None = None
    refused: bool | None = None
    valid_format: bool | None = None


def _column_type(annotation: Any) -> pa.DataType:
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not types.NoneType)
    return _COLUMN_TYPES[annotation]


SCHEMA = pa.schema([(name, _column_type(field.annotation)) for name, field in TelemetryRow.model_fields.items()])
"""The columns of a part, in the row's order."""
