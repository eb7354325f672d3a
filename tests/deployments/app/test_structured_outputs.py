"""Structured outputs: the request's field constrains the engine, and an unsupported constraint is an error 400."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from tasks.core.settings import EngineSettings
from tasks.engine.protocol import ConstraintError, GenerationRequest, JsonSchema, Regex, Tag, Tags
from tasks.engine.resources import EXCLUSIVE
from tasks.engine.transformers import TransformersEngine
from tasks.prompt.encoding import Prompt
from tests.deployments.app.test_turn import PausableEngine, ReplicaAssistant

SCHEMA = {"type": "object", "properties": {"order": {"type": "string"}, "amount": {"type": "number"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA, "strict": True}}


WORD = {"word": {"enum": ["fern", "moss"]}}
LOOK_UP = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"properties": WORD, "required": ["word"]}},
}
LIST = {"type": "function", "function": {"name": "list"}}


def tag(name: str, properties: dict[str, Any]) -> Tag:
    """A call of a tool with these properties, as the template writes it."""
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if name == "look_up":
        schema["required"] = ["word"]
    return Tag(f'<tool_call>{{"name": "{name}", "arguments": ', json.dumps(schema), "}</tool_call>")


class UnconstrainedEngine(PausableEngine):
    """Supports no constraint."""

    def submit(self, key: int, request: GenerationRequest) -> None:
        if isinstance(request.sampling.constraint, JsonSchema | Regex) or "color" in str(request.sampling.constraint):
            raise ConstraintError("'color' is not a type of JSON schema")
        super().submit(key, request)


@pytest.mark.parametrize(
    ("options", "constraint"),
    [
        ({"tools": []}, None),
        ({"tool_choice": "none"}, None),
        ({"tools": [LOOK_UP, LIST], "response_format": {"type": "json_object"}}, JsonSchema('{"type": "object"}')),
        ({}, Tags("<tool_call>", (tag("find_order", {"order_id": {"type": "string"}}),))),
        ({"response_format": {"type": "text"}, "tools": [LOOK_UP]}, Tags("<tool_call>", (tag("look_up", WORD),))),
        ({"tools": [LOOK_UP, LIST]}, Tags("<tool_call>", (tag("look_up", WORD), tag("list", {})))),
        (
            {"tools": [LOOK_UP, LIST], "tool_choice": "required"},
            Tags("<tool_call>", (tag("look_up", WORD), tag("list", {})), required=True),
        ),
        (
            {"tools": [LOOK_UP, LIST], "tool_choice": {"type": "function", "function": {"name": "list"}}},
            Tags("<tool_call>", (tag("list", {}),), required=True),
        ),
        ({"response_format": {"type": "json_object"}}, JsonSchema('{"type": "object"}')),
        ({"response_format": FORMAT}, JsonSchema(json.dumps(SCHEMA))),
        ({"extra_body": {"structured_outputs": {"regex": "[A-Z]{2}-[0-9]+"}}}, Regex("[A-Z]{2}-[0-9]+")),
    ],
)
def test_the_engine_is_held_to_what_the_request_names(
    options: dict[str, Any], constraint: Any, tiny_base: Path, tiny_prompts: Path
) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine('{"order": "HL-1"}'), tiny_base, tiny_prompts)
        assert (await assistant.whole(**options)).choices[0].message.content == '{"order": "HL-1"}'
        assert [request.sampling.constraint for request in assistant.engine.requests] == [constraint]

    asyncio.run(run())


def test_a_tool_call_in_a_constrained_answer_is_content(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        text = json.dumps({"order": '<tool_call>{"name": "a", "arguments": {}}</tool_call>'})
        text = text.replace("\\", "")  # the tag's own quotes unescaped, so that it could be read as a call
        assistant = ReplicaAssistant(PausableEngine(text), tiny_base, tiny_prompts)
        assert (await assistant.whole(response_format=FORMAT)).choices[0].message.content == text
        chunks = await assistant.streamed(response_format=FORMAT)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": FORMAT}, "response_format"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "color"}}}]}, "tools"),
    ],
)
def test_a_constraint_that_the_engine_cannot_hold_is_400_for_who_asked(
    options: dict[str, Any], param: str, stream: bool, tiny_base: Path, tiny_prompts: Path
) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(UnconstrainedEngine("ok"), tiny_base, tiny_prompts)
        ask = assistant.streamed if stream else assistant.whole
        with pytest.raises(openai.BadRequestError, match="not a type of JSON schema") as error:
            await ask(**options)
        assert (error.value.code, error.value.param) == ("invalid_value", param)
        assert (await assistant.whole()).choices[0].message.content == "ok"
        assert [row.status for row in assistant.rows] == [400, 200]

    asyncio.run(run())


def test_the_reference_engine_holds_what_http_asks_and_refuses_what_is_no_schema(
    tiny_base: Path, tiny_prompts: Path
) -> None:
    async def run() -> None:
        end_of_turn = Prompt.load(tiny_prompts, tiny_base).end_of_turn
        assistant = ReplicaAssistant(
            TransformersEngine.load(tiny_base, None, end_of_turn, "float32", EXCLUSIVE), tiny_base, tiny_prompts
        )
        one = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes"]}}}
        assert (await assistant.whole(response_format=one)).choices[0].message.content == '"yes"'
        regex = {"structured_outputs": {"regex": "[ab]{3}"}}
        assert set((await assistant.whole(extra_body=regex)).choices[0].message.content) <= {"a", "b"}
        none = {"type": "color"}
        with pytest.raises(openai.BadRequestError) as error:
            await assistant.whole(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": none}})
        assert (error.value.code, error.value.param) == ("invalid_value", "response_format")
        with pytest.raises(openai.BadRequestError, match=r'"paint".*cannot be held') as error:
            await assistant.whole(tools=[{"type": "function", "function": {"name": "paint", "parameters": none}}])
        assert (error.value.code, error.value.param) == ("invalid_value", "tools")

    asyncio.run(run())


def test_a_model_that_knows_nothing_calls_the_tool_that_it_must(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        end_of_turn = Prompt.load(tiny_prompts, tiny_base).end_of_turn
        assistant = ReplicaAssistant(
            TransformersEngine.load(tiny_base, None, end_of_turn, "float32", EXCLUSIVE), tiny_base, tiny_prompts
        )
        settings = EngineSettings(name="transformers", dtype="float32", max_new_tokens=90)
        assistant.server._model = replace(assistant.server._model, settings=settings)
        for choice in ("required", {"type": "function", "function": {"name": "look_up"}}):
            (answer,) = (await assistant.whole(tools=[LOOK_UP], tool_choice=choice)).choices
            assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
            (call,) = answer.message.tool_calls
            assert call.function.name == "look_up"
            assert json.loads(call.function.arguments)["word"] in ("fern", "moss")

    asyncio.run(run())


@pytest.mark.parametrize(
    "options",
    [
        {"tool_choice": "required"},
        {"tool_choice": "required", "tools": []},
        {"tool_choice": {"type": "function", "function": {"name": "paint"}}, "tools": [LOOK_UP]},
        {"tool_choice": "required", "tools": [LOOK_UP], "response_format": FORMAT},
    ],
)
def test_a_call_that_cannot_be_is_400(options: dict[str, Any], tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("never"), tiny_base, tiny_prompts)
        with pytest.raises(openai.BadRequestError, match="has to be one of 'tools'") as error:
            await assistant.whole(**options)
        assert (error.value.code, error.value.param) == ("invalid_value", "tool_choice")
        assert not assistant.engine.requests

    asyncio.run(run())
