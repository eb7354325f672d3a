"""Shadow traffic, over HTTP in one process: the requests that it copies, its rows, and clients who never feel it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from deployments.app.routing.routing import Routing
from deployments.app.routing.traffic_split import user_bucket_key
from deployments.core.messages import OVERLOADED, Event, TurnRequest
from deployments.core.settings import CacheSettings, RetrySettings, ShadowSettings
from tasks.core.paths import PARAMS
from tasks.core.settings import load_settings
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.rollout.shadow_comparison import ShadowPair
from tests.conftest import ROOT
from tests.deployments.app.steps.test_tool_loop import FIND, Parcel, Tools
from tests.integration.test_canary_over_http import ALONE, THIRD
from tests.support.assistant_in_process import NEW, OLD, PSEUDONYMS, Script, ScriptedAssistant, answers, refuses

SHADOW = ShadowSettings(fraction=0.5, concurrency=2, max_open_requests=4, timeout_s=5)
CACHE = CacheSettings(mb=1, max_age_s=100, semantic=False, threshold=0.9, entries=3)
MANY = RetrySettings(attempts=5, backoff_s=0.001, ratio=1, per_minute=60)
OLD_ANSWER = "From the old one."


def assistant_with_shadow(*scripts: Script, routing: Routing | None = None, **options: Any) -> ScriptedAssistant:
    """The old package in production, and the new one as its shadow, by `scripts`."""
    assistant = ScriptedAssistant(
        list(scripts) or [answers("From the new one.")], shadow=options.pop("settings", SHADOW), **options
    )
    assistant.turns.routing = routing or ALONE.with_shadow(NEW)
    return assistant


def late(go_on: asyncio.Event) -> Script:
    """An answer that begins once it may."""

    async def script(ask: TurnRequest) -> AsyncGenerator[Event]:
        await go_on.wait()
        async for event in answers("Late.")(ask):
            yield event

    return script


async def until(done: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.001)


def shadow_rows(assistant: ScriptedAssistant) -> list[TelemetryRow]:
    return [row for row in assistant.rows if row.operation == "shadow"]


def shadow_attempts(assistant: ScriptedAssistant) -> list[str]:
    return [event[2] for event in assistant.metrics.events if event[:2] == ("route_attempt", "shadow")]


async def is_copied(assistant: ScriptedAssistant, **options: Any) -> bool:
    """Whether a request is copied to the shadow; waits until the shadow has answered."""
    assert (await assistant.post(**options)).status_code == 200
    copies = set(assistant.turns._steps.shadow_traffic._open)  # type: ignore[union-attr]
    await asyncio.gather(*copies)
    return bool(copies)


@pytest.mark.parametrize("stream", [False, True])
def test_what_production_answered_is_asked_of_the_shadow_and_compared(stream: bool) -> None:
    async def run() -> None:
        assistant = assistant_with_shadow()
        response = await assistant.post(stream=stream, user="C-1042")
        assert OLD in response.text and NEW not in response.text
        assert response.headers["x-graft-route"] == "production"
        await until(lambda: shadow_rows(assistant))
        answer, row = assistant.rows
        assert (answer.operation, answer.digest, answer.meant, answer.shadow) == ("chat", OLD, OLD, "")
        assert (row.trace_id, row.digest, row.route, row.meant, row.status) == (
            answer.trace_id,
            NEW,
            "shadow",
            "",
            200,
        )
        assert row.answer_chars == len("From the new one.")
        assert (
            row.visitor
            == answer.visitor
            == PSEUDONYMS.pseudonym(user_bucket_key("anonymous", TurnRequest(customer="C-1042")))
        )
        compared = ShadowPair.model_validate_json(row.shadow)
        assert (compared.trace_id, compared.production, compared.shadow) == (answer.trace_id, OLD, NEW)
        assert (compared.production_ms, compared.shadow_ms) == (2.0, 2.0)
        assert compared.token_f1 == pytest.approx(0.75)
        assert compared.length_ratio == 1
        original, copy = assistant.backend.requests
        assert (copy.messages, copy.customer) == (original.messages, original.customer)
        assert shadow_attempts(assistant) == ["ok"]

    asyncio.run(run())


def test_a_row_of_a_comparison_holds_no_text() -> None:
    async def run() -> None:
        assistant = assistant_with_shadow()
        await assistant.post(messages=[{"role": "user", "content": "Where is zebra street?"}])
        await until(lambda: shadow_rows(assistant))
        (row,) = shadow_rows(assistant)
        dumped = row.model_dump_json()
        assert not [word for word in ("zebra", "From", "new one") if word in dumped]

    asyncio.run(run())


def test_the_answer_has_left_before_the_shadow_is_asked_and_does_not_wait_for_it() -> None:
    async def run() -> None:
        go_on = asyncio.Event()

        assistant = assistant_with_shadow(late(go_on))
        for stream in (False, True):
            assert (await assistant.post(stream=stream)).status_code == 200
        await until(lambda: assistant.backend.apps.count("new") == 2)
        assert [row.operation for row in assistant.rows] == ["chat", "chat"]
        go_on.set()
        await until(lambda: len(shadow_rows(assistant)) == 2)

    asyncio.run(run())


def test_before_the_body_is_sent_nothing_is_asked() -> None:
    """By the order of ASGI's messages: the shadow comes after the last of them."""

    async def run() -> None:
        assistant = assistant_with_shadow()
        sent: list[list[str]] = []

        async def receive() -> dict[str, Any]:
            body = {"model": "production", "messages": [{"role": "user", "content": "Hello?"}]}
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

        async def send(_: Any) -> None:
            await asyncio.sleep(0.01)
            sent.append(list(assistant.backend.apps))

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(b"content-type", b"application/json")],
            "query_string": b"",
            "http_version": "1.1",
        }
        async with assistant.http() as http:
            await http._transport.app(scope, receive, send)  # type: ignore[attr-defined]
        assert sent == [["old"], ["old"]]
        await until(lambda: shadow_rows(assistant))

    asyncio.run(run())


def test_the_shadows_call_is_compared_and_never_run() -> None:
    async def run() -> None:
        settings = load_settings(ROOT / PARAMS).tools
        tools = Tools(Parcel(status="sent"))
        assistant = assistant_with_shadow(FIND, run_tool=tools.use, tools=settings)
        assistant.backend.scripts["old"] = [FIND, answers("It has left.")]
        assert (await assistant.post(user="C-1042")).json()["choices"][0]["message"]["content"] == "It has left."
        await until(lambda: shadow_rows(assistant))
        assert len(tools.calls) == 1
        assert assistant.backend.apps == ["old", "old", "new"]
        (row,) = shadow_rows(assistant)
        compared = ShadowPair.model_validate_json(row.shadow)
        assert (row.tool_name, compared.production_tool, compared.same_call) == ("find_order", "find_order", True)
        assert (compared.production_ms, compared.shadow_ms) == (2.0, 2.0)
        first, _, copy = assistant.backend.requests
        assert copy.messages == first.messages

    asyncio.run(run())


@pytest.mark.parametrize("script", [refuses(500, "engine_error"), refuses(503, "engine_unavailable", after="Well, ")])
def test_a_shadow_that_fails_leaves_a_row_and_is_not_asked_again(script: Script) -> None:
    async def run() -> None:
        assistant = assistant_with_shadow(script, retries=MANY)
        assert (await assistant.whole()) == (OLD, OLD_ANSWER)
        await until(lambda: shadow_rows(assistant))
        (row,) = shadow_rows(assistant)
        assert (row.digest, row.shadow, row.user_chars) == (NEW, "", None)
        assert row.status >= 500 and row.error.startswith("engine_")
        assert assistant.backend.apps == ["old", "new"]
        assert not [event for event in assistant.metrics.events if event[0] in ("retry", "breaker_state")]

    asyncio.run(run())


def test_a_shadow_that_raises_or_hangs_affects_no_client(caplog: pytest.LogCaptureFixture) -> None:
    async def raises(_: TurnRequest) -> AsyncGenerator[Event]:
        raise RuntimeError("the machine is on fire")
        yield

    async def hangs(_: TurnRequest) -> AsyncGenerator[Event]:
        await asyncio.sleep(60)
        yield  # type: ignore[misc]  # which makes it a generator

    async def run() -> None:
        assistant = assistant_with_shadow(raises, hangs, settings=SHADOW.model_copy(update={"timeout_s": 0.05}))
        for _ in range(2):
            assert (await assistant.whole()) == (OLD, OLD_ANSWER)
        await until(lambda: shadow_rows(assistant))
        assert [(row.status, row.error) for row in shadow_rows(assistant)] == [(504, "timeout")]
        assert "on fire" in caplog.text

    asyncio.run(run())


def test_copies_beyond_those_that_may_be_open_are_dropped() -> None:
    async def run() -> None:
        go_on = asyncio.Event()

        assistant = assistant_with_shadow(late(go_on))
        for _ in range(5):
            await assistant.post()
        assert shadow_attempts(assistant) == ["dropped"] * 3
        go_on.set()
        await until(lambda: len(shadow_rows(assistant)) == 2)
        await assistant.post()
        await until(lambda: len(shadow_rows(assistant)) == 3)

    asyncio.run(run())


def test_busy_engines_get_no_request_that_no_client_waits_for() -> None:
    async def run() -> None:
        assistant = assistant_with_shadow(refuses(503, OVERLOADED))
        assistant.load = 4
        await assistant.post()
        assistant.load = 3
        await assistant.post()
        await until(lambda: len(shadow_attempts(assistant)) == 2)
        assert shadow_attempts(assistant) == ["dropped", OVERLOADED]
        assert not shadow_rows(assistant)

    asyncio.run(run())


def test_only_greedy_chats_that_production_itself_answered_are_copied() -> None:
    async def run() -> None:
        assistant = assistant_with_shadow(cache=CACHE)
        other = [{"role": "user", "content": "Where is it?"}]
        assert not await is_copied(assistant, temperature=1)
        assert not await is_copied(assistant, model=OLD)
        assert not await is_copied(assistant)  # that answer was kept
        assistant.random_number = 0.5
        assert not await is_copied(assistant, messages=other)
        assistant.random_number = 0.4
        assert await is_copied(assistant, messages=[*other, {"role": "assistant", "content": "Here."}, *other])
        async with assistant.http() as http:
            await http.post("/v1/completions", json={"model": "production", "prompt": "Once"})
        assert assistant.backend.apps == ["old"] * 3 + ["old", "new"] + ["old"]

    asyncio.run(run())


def test_what_another_route_gave_is_not_compared() -> None:
    async def run() -> None:
        routing = Routing(production=NEW, previous=OLD, served={**ALONE.served, THIRD: ALONE.served[OLD]})
        assistant = assistant_with_shadow(
            refuses(500, "engine_error"), answers("Better now."), routing=routing.with_shadow(THIRD)
        )
        assert not await is_copied(assistant)
        assert assistant.rows[-1].route == "previous"
        assert await is_copied(assistant)

    asyncio.run(run())


def test_without_a_shadow_nothing_is_copied() -> None:
    async def run() -> None:
        assert not await is_copied(assistant_with_shadow(routing=ALONE))

    asyncio.run(run())


def test_a_canarys_turns_are_not_copied() -> None:
    async def run() -> None:
        served = {**ALONE.served, THIRD: ALONE.served[NEW]}
        routing = Routing(production=OLD, served=served).with_shadow(NEW).with_canary(THIRD, 50)
        assistant = assistant_with_shadow(routing=routing)
        for number in range(40):
            await assistant.post(user=f"C-{number}")
            await asyncio.sleep(0)
        await until(lambda: len(shadow_attempts(assistant)) == sum(row.route == "production" for row in assistant.rows))
        by = {row.trace_id: row.route for row in assistant.rows if row.operation == "chat"}
        assert set(by.values()) == {"canary", "production"}
        assert {by[row.trace_id] for row in shadow_rows(assistant)} == {"production"}

    asyncio.run(run())


def test_a_copy_costs_its_client_nothing() -> None:
    async def run() -> None:
        assistant = assistant_with_shadow()
        await assistant.post()
        await until(lambda: shadow_rows(assistant))
        (account,) = assistant.turns.limits._accounts.values()
        (answer,) = (row for row in assistant.rows if row.operation == "chat")
        assert account.open == 0
        assert account.requests.level == 999
        used = (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
        assert account.tokens.level == 100000 - used

    asyncio.run(run())
