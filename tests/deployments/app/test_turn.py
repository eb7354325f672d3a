"""Turns over HTTP in one process, with a scripted engine.

Queue, prompt, parsing, routes and telemetry are those that serve.

Also covers `deployments/app/openai/chat.py`, `deployments/app/routing/timeouts.py`,
`deployments/app/turn_record.py` and `deployments/core/messages.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from deployments.app.access.rate_limits import RateLimits
from deployments.app.routing.routing import Routing, ServedPackage
from deployments.app.routing.timeouts import Timeouts
from deployments.core.settings import ReplicaSettings
from deployments.replicas.engine import PackageServer
from tasks.core.settings import EngineSettings
from tasks.engine.loading import Model
from tasks.engine.protocol import GenerationRequest, TokenChunk
from tasks.prompt.encoding import Prompt
from tasks.prompt.tool_calls import visible_text
from tests.support import assistant_in_process
from tests.support.assistant_in_process import LIMITS
from tests.support.scripted_engine import ScriptChunk, ScriptedEngine, says

DIGEST = "d" * 64
ASK = [{"role": "user", "content": "Where is HL-20931?"}]
CALL = '<tool_call>{"name": "find_order", "arguments": {"order_id": "HL-20931"}}</tool_call>'
SETTINGS = ReplicaSettings(
    threads=1,
    stream_every_s=0,
    cache_gb=1,
    max_num_seqs=1,
    max_queued=1,
    first_token_timeout_s=5,
    request_timeout_s=5,
    start_timeout_s=5,
    health_check_period_s=5,
)
SERVED = ServedPackage(app="new", name="tulip", max_new_tokens=50, since=1)


class PausableEngine(ScriptedEngine):
    """Says `text` in chunks of three characters, once it may."""

    def __init__(self, text: str) -> None:
        super().__init__(says(text))
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.was_cancelled = threading.Event()

    def step(self) -> list[TokenChunk]:
        self.may_go_on.wait(30)
        return super().step()

    def cancel(self, key: int) -> None:
        super().cancel(key)
        self.was_cancelled.set()


def failing(_: GenerationRequest) -> Iterator[ScriptChunk]:
    yield "Hello", (1,), None
    raise RuntimeError("the machine is on fire")


class ReplicaAssistant(assistant_in_process.ScriptedAssistant):
    """The assistant with one served package, whose server is real and whose engine is scripted."""

    def __init__(self, engine: Any, base: Path, prompts: Path, timeout_s: float = 30.0, **limits: Any) -> None:
        settings = EngineSettings(name="transformers", dtype="float32", max_new_tokens=50)
        self.engine = engine
        self.server = PackageServer(Model(engine, Prompt.load(prompts, base), settings, 500), ("i can't",), SETTINGS)
        super().__init__(
            [self.server.turn],
            order=("production",),
            keys=limits.pop("keys", None),
            timeouts=Timeouts(first_token_s=limits.pop("first_token_s", timeout_s), request_s=timeout_s),
            limits=LIMITS.model_copy(update=limits),
        )
        self.turns.routing = Routing(production=DIGEST, served={DIGEST: SERVED})

    @asynccontextmanager
    async def client(self) -> AsyncIterator[openai.AsyncOpenAI]:
        async with (
            self.http() as http,
            openai.AsyncOpenAI(
                base_url="http://assistant/v1", api_key="none", http_client=http, max_retries=0
            ) as client,
        ):
            yield client

    async def whole(self, **options: Any) -> Any:
        async with self.client() as client:
            return await client.chat.completions.create(**{"model": "production", "messages": ASK, **options})

    async def streamed(self, **options: Any) -> list[Any]:
        async with self.client() as client:
            create = client.chat.completions.create
            stream = await create(**{"model": "production", "messages": ASK, **options}, stream=True)
            return [chunk async for chunk in stream]


def joined(chunks: list[Any]) -> tuple[str, list[tuple[str, str]]]:
    deltas = [chunk.choices[0].delta for chunk in chunks]
    calls = [(c.function.name, c.function.arguments) for d in deltas for c in d.tool_calls or ()]
    return "".join(delta.content or "" for delta in deltas), calls


TEXTS = [
    "It left on Tuesday.",
    CALL,
    f"One moment.\n{CALL}",
    f"{CALL}\n{CALL}",
    f"Before {CALL} after",
    "2 < 3 and a <tool is not a call",
    "<tool_call>{broken</tool_call>",
    "Half a <tool_call>{",
    "  spaces around  ",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_says_what_the_whole_answer_says(text: str, tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine(text), tiny_base, tiny_prompts)
        whole = (await assistant.whole()).choices[0]
        chunks = await assistant.streamed()
        content, calls = joined(chunks)
        assert content == (whole.message.content or "")
        assert calls == [(c.function.name, c.function.arguments) for c in whole.message.tool_calls or ()]
        assert chunks[-1].choices[0].finish_reason == whole.finish_reason
        assert [row.status for row in assistant.rows] == [200, 200]

    asyncio.run(run())


def test_a_tool_call_has_openais_shape(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine(CALL), tiny_base, tiny_prompts)
        choice = (await assistant.whole()).choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls
        assert call.id.startswith("call_")
        assert call.function.name == "find_order"
        assert json.loads(call.function.arguments) == {"order_id": "HL-20931"}
        assert (assistant.rows[0].tool_name, assistant.rows[0].valid_format) == ("find_order", True)

    asyncio.run(run())


def test_no_part_of_a_tool_call_is_streamed_as_content(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        content, calls = joined(
            await ReplicaAssistant(PausableEngine(f"Wait. {CALL}"), tiny_base, tiny_prompts).streamed()
        )
        assert (content, len(calls)) == ("Wait.", 1)

    asyncio.run(run())


def test_showable_never_takes_back() -> None:
    for text in TEXTS:
        shown = [visible_text(text[:size]) for size in range(len(text) + 1)]
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(shown))


def test_what_the_request_says_of_tools_is_done(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine(CALL + CALL), tiny_base, tiny_prompts)
        own = {"type": "function", "function": {"name": "look_up", "parameters": {"properties": {"word": {}}}}}
        assert len((await assistant.whole(tools=[own])).choices[0].message.tool_calls) == 2
        assert len((await assistant.whole(parallel_tool_calls=False)).choices[0].message.tool_calls) == 1
        none = (await assistant.whole(tool_choice="none")).choices[0]
        assert (none.message.tool_calls, none.message.content) == (None, CALL + CALL)
        prompts = [assistant.server._model.prompt.tokenizer.decode(r.prompt_ids) for r in assistant.engine.requests]
        assert ["look_up(word)" in p for p in prompts] == [True, False, False]
        assert ["find_order(" in p for p in prompts] == [False, True, False]

    asyncio.run(run())


def test_decoding_options_reach_the_engine(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("ok"), tiny_base, tiny_prompts)
        await assistant.whole()
        await assistant.whole(temperature=0.7, top_p=0.9, seed=5, stop="x", max_tokens=7)
        await assistant.whole(stop=["a", "b"], max_completion_tokens=9999)
        plain, options, large = (request.sampling for request in assistant.engine.requests)
        assert (plain.temperature, plain.top_p, plain.seed, plain.stop, plain.max_new_tokens) == (0, 1, None, (), 50)
        assert (options.temperature, options.top_p, options.seed, options.stop, options.max_new_tokens) == (
            0.7,
            0.9,
            5,
            ("x",),
            7,
        )
        assert (large.stop, large.max_new_tokens) == (("a", "b"), 50)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"{", None, "invalid_json"),
        (b'\xff{"model": "production"}', None, "invalid_json"),
        ({"messages": ASK}, "model", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "invalid_value"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"n": 2}, "n", "invalid_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"seed": 2**70}, "seed", "invalid_value"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice", "unknown_parameter"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "invalid_value",
        ),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        (
            {"tools": [{"type": "function", "function": {"name": "no spaces"}}]},
            "tools.0.function.name",
            "invalid_value",
        ),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
    ],
)
def test_a_bad_request_is_400_names_its_field_and_leaves_a_row(
    body: bytes | dict[str, Any], param: str | None, code: str, tiny_base: Path, tiny_prompts: Path
) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("never"), tiny_base, tiny_prompts)
        model = {} if param == "model" else {"model": "production"}
        content = body if isinstance(body, bytes) else json.dumps({**model, "messages": ASK, **body}).encode()
        async with assistant.http() as http:
            json_type = {"content-type": "application/json; charset=utf-8"}
            answer = await http.post("/v1/chat/completions", content=content, headers=json_type)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (400, code, "invalid_request_error")
        assert param is None or error["param"] == param
        (row,) = assistant.rows
        assert (row.trace_id, row.status, row.error) == (answer.headers["x-graft-trace-id"], 400, code)
        assert not assistant.engine.requests

    asyncio.run(run())


def test_a_full_queue_is_503_with_retry_after(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("slow answer"), tiny_base, tiny_prompts)
        assistant.engine.may_go_on.clear()
        running = asyncio.create_task(assistant.whole())
        while not assistant.engine.requests:
            await asyncio.sleep(0.005)
        waiting = asyncio.create_task(assistant.whole())
        while not assistant.server._queue._waiting:
            await asyncio.sleep(0.005)
        with pytest.raises(openai.InternalServerError) as error:
            await assistant.whole()
        assert (error.value.status_code, error.value.code) == (503, "overloaded")
        assert int(error.value.response.headers["retry-after"]) > 0
        assistant.engine.may_go_on.set()
        await asyncio.gather(running, waiting)
        assert sorted(row.status for row in assistant.rows) == [200, 200, 503]
        assert max(row.queue_ms or 0 for row in assistant.rows) > 0

    asyncio.run(run())


def test_a_key_is_asked_for_and_named_in_the_row(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(
            PausableEngine("ok"), tiny_base, tiny_prompts, keys={"shop": "sk-0123456789abcdef"}
        )
        with pytest.raises(openai.AuthenticationError) as error:
            await assistant.whole()
        assert error.value.code == "invalid_api_key"
        await assistant.whole(extra_headers={"Authorization": "Bearer sk-0123456789abcdef"})
        assert [(row.status, row.owner) for row in assistant.rows] == [(401, ""), (200, "shop")]
        assert len(assistant.engine.requests) == 1
        async with assistant.client() as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()

    asyncio.run(run())


def test_a_body_that_is_too_long_is_413(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("ok"), tiny_base, tiny_prompts, body_bytes=300)
        await assistant.whole()
        with pytest.raises(openai.APIStatusError) as error:
            await assistant.whole(messages=[{"role": "user", "content": "x" * 300}])
        assert (error.value.status_code, error.value.code) == (413, "request_too_large")
        assert len(assistant.engine.requests) == 1

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_rate_limit_is_429_with_openais_headers_and_counts_what_was_used(
    stream: bool, tiny_base: Path, tiny_prompts: Path
) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("ok"), tiny_base, tiny_prompts)
        limits = LIMITS.model_copy(update={"requests_per_minute": 2})
        assistant.turns.limits = RateLimits(limits, clock=lambda: 0.0)  # nothing flows back meanwhile
        ask = assistant.streamed if stream else assistant.whole
        for _ in range(2):
            await ask()
        with pytest.raises(openai.RateLimitError) as error:
            await ask()
        headers = error.value.response.headers
        assert error.value.code == "rate_limit_exceeded"
        assert headers["retry-after"] == "30"
        assert headers["x-ratelimit-limit-requests"] == "2"
        (account,) = assistant.turns.limits._accounts.values()
        used = sum(r.prompt_tokens + r.completion_tokens for r in assistant.rows[:2])  # type: ignore[operator]
        assert account.tokens.level == 100000 - used
        assert account.open == 0
        assert [row.status for row in assistant.rows] == [200, 200, 429]

    asyncio.run(run())


def test_a_refused_request_is_not_charged_for_tokens(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("ok"), tiny_base, tiny_prompts)
        with pytest.raises(openai.BadRequestError) as error:
            await assistant.whole(messages=[{"role": "user", "content": "x" * 3000}])
        assert error.value.code == "context_length_exceeded"
        (account,) = assistant.turns.limits._accounts.values()
        assert (account.tokens.level, account.open) == (100000, 0)

    asyncio.run(run())


def test_what_does_not_begin_in_time_is_504(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("slow answer"), tiny_base, tiny_prompts, first_token_s=0.2)
        assistant.engine.may_go_on.clear()
        with pytest.raises(openai.InternalServerError, match=r"did not begin within 0\.2 s"):
            await assistant.streamed()
        assistant.engine.may_go_on.set()
        assert await asyncio.to_thread(assistant.engine.was_cancelled.wait, 30)

    asyncio.run(run())


def test_what_takes_too_long_is_504_and_its_work_ends(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("slow answer"), tiny_base, tiny_prompts, timeout_s=0.2)
        assistant.engine.may_go_on.clear()
        with pytest.raises(openai.InternalServerError) as error:
            await assistant.whole()
        assert (error.value.status_code, error.value.code) == (504, "timeout")
        assistant.engine.may_go_on.set()
        assert await asyncio.to_thread(assistant.engine.was_cancelled.wait, 30)
        assert (assistant.rows[0].status, assistant.rows[0].error) == (504, "timeout")

    asyncio.run(run())


def test_a_stream_that_takes_too_long_ends_in_an_error(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("slow answer"), tiny_base, tiny_prompts, timeout_s=0.5)
        assistant.engine.may_go_on.clear()
        with pytest.raises(openai.APIError, match=r"did not (begin|finish)"):
            await assistant.streamed()
        assistant.engine.may_go_on.set()
        assert [(row.status, row.error, row.stream) for row in assistant.rows] == [(504, "timeout", True)]

    asyncio.run(run())


def test_an_engine_that_fails_is_500_in_openais_shape(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(ScriptedEngine(failing), tiny_base, tiny_prompts)
        with pytest.raises(openai.InternalServerError) as error:
            await assistant.whole()
        assert error.value.code == "engine_error"
        assert "fire" not in error.value.message
        with pytest.raises(openai.APIError, match="failed while answering"):
            await assistant.streamed()
        assert [(row.status, row.error) for row in assistant.rows] == [(500, "engine_error")] * 2

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_is_noted_and_ends_the_work(stream: bool, tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("slow answer"), tiny_base, tiny_prompts)
        assistant.engine.may_go_on.clear()
        task = asyncio.create_task(assistant.streamed() if stream else assistant.whole())
        while not assistant.engine.requests:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        assert [(row.status, row.error, row.stream) for row in assistant.rows] == [(499, "client_closed", stream)]
        assert assistant.rows[0].digest == DIGEST
        assistant.engine.may_go_on.set()
        assert await asyncio.to_thread(assistant.engine.was_cancelled.wait, 30)

    asyncio.run(run())


def test_health_really_asks_for_a_token_but_not_again_at_once(tiny_base: Path, tiny_prompts: Path) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(PausableEngine("x"), tiny_base, tiny_prompts)
        await assistant.server.check_health()
        await assistant.server.check_health()
        assert [r.max_new_tokens for r in assistant.engine.requests] == [1]
        with pytest.raises(RuntimeError, match="fire"):
            await ReplicaAssistant(ScriptedEngine(failing), tiny_base, tiny_prompts).server.check_health()

    asyncio.run(run())


def test_production_must_be_served() -> None:
    with pytest.raises(ValueError, match="is not served"):
        Routing(production=DIGEST)
