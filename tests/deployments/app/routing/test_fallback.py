"""Fallback over HTTP in one process: packages that fail by a script; routes and turns are those that serve.

Also covers `deployments/app/routing/routing.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from pydantic import ValidationError

from deployments.app.routing.routing import Routing, ServedPackage
from deployments.core.messages import Event, TurnRequest
from deployments.core.settings import RetrySettings
from tests.support.assistant_in_process import NEW, OLD, WORDS, Script, ScriptedAssistant, answers, refuses

UNREACHABLE = refuses(503, "engine_unavailable")
BROKEN = refuses(500, "engine_error")


async def hangs(_: TurnRequest) -> AsyncGenerator[Event]:
    await asyncio.sleep(60)
    yield  # type: ignore[misc]  # which makes it a generator


def route_headers(response: httpx.Response) -> tuple[str | None, ...]:
    return tuple(response.headers.get(f"x-graft-{name}") for name in ("route", "fallback", "retries"))


def test_a_package_that_answers_needs_no_other_route() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([answers("From the new one.")])
        response = await assistant.post()
        assert response.json()["model"] == NEW
        assert route_headers(response) == ("production", None, None)
        (row,) = assistant.rows
        assert (row.route, row.digest, row.passed_over, row.retries) == ("production", NEW, "", 0)

    asyncio.run(run())


@pytest.mark.parametrize("script", [BROKEN, refuses(503, "overloaded"), refuses(504, "timeout"), hangs])
@pytest.mark.parametrize("stream", [False, True])
def test_a_route_that_fails_before_its_first_token_is_followed_by_the_next(stream: bool, script: Script) -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([script])
        response = await assistant.post(stream=stream)
        assert response.status_code == 200
        assert OLD in response.text
        assert NEW not in response.text
        route, reason, retries = route_headers(response)
        assert (route, retries) == ("previous", None)
        assert reason is not None and reason.startswith("production=")
        assert assistant.backend.apps == ["new", "old"]
        (row,) = assistant.rows
        assert (row.status, row.route, row.digest, row.passed_over) == (200, "previous", OLD, reason)

    asyncio.run(run())


def test_a_whole_answer_falls_back_even_after_its_first_token_for_nothing_was_sent() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([refuses(500, "engine_error", after="Well, ")])
        assert await assistant.whole() == (OLD, "From the old one.")

    asyncio.run(run())


def test_a_stream_that_has_begun_never_changes_its_model() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([refuses(503, "engine_unavailable", after="Well, ")])
        response = await assistant.post(stream=True)
        assert NEW in response.text
        assert "refused: engine_unavailable" in response.text
        assert assistant.backend.apps == ["new"]
        assert (assistant.rows[0].status, assistant.rows[0].route) == (503, "production")

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_own_error_is_returned_and_not_counted_against_the_route(stream: bool) -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([refuses(400, "context_length_exceeded")])
        for _ in range(5):
            response = await assistant.post(stream=stream)
            assert (response.status_code, route_headers(response)) == (400, ("production", None, None))
        assert assistant.backend.apps == ["new"] * 5

    asyncio.run(run())


def test_overload_falls_back_and_opens_no_breaker() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([refuses(503, "overloaded")])
        for _ in range(5):
            await assistant.post()
        assert assistant.backend.apps == ["new", "old"] * 5

    asyncio.run(run())


@pytest.mark.parametrize("script", [UNREACHABLE, BROKEN])
def test_who_asks_for_a_digest_gets_that_package_or_its_own_error(script: Script) -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([script])
        response = await assistant.post(model=NEW)
        assert response.status_code >= 500
        assert route_headers(response)[:2] == ("digest", None)
        assert "old" not in assistant.backend.apps
        assert (await assistant.post(model=OLD)).json()["model"] == OLD

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_replica_that_is_gone_is_asked_again_first(stream: bool) -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([UNREACHABLE, answers("From its successor.")])
        response = await assistant.post(stream=stream)
        assert NEW in response.text
        assert route_headers(response) == ("production", None, "1")
        assert assistant.backend.apps == ["new", "new"]
        assert (assistant.rows[0].route, assistant.rows[0].retries) == ("production", 1)
        assert assistant.rows[0].first_token_ms is not None

    asyncio.run(run())


def test_attempts_are_bounded() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([UNREACHABLE])
        assert (await assistant.whole())[0] == OLD
        assert assistant.backend.apps == ["new", "new", "old"]

    asyncio.run(run())


def test_a_spent_budget_leaves_no_retries() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant(
            [UNREACHABLE], retries=RetrySettings(attempts=9, backoff_s=0.001, ratio=0.0, per_minute=1)
        )
        assert (await assistant.whole())[0] == OLD
        assert assistant.backend.apps == ["new", "new", "old"]
        assert [t for t in assistant.metrics.events if t[0] == "retry"] == [
            ("retry", "production", "True"),
            ("retry", "production", "False"),
        ]

    asyncio.run(run())


def test_an_open_breaker_skips_its_route_until_a_probe_succeeds() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([BROKEN, BROKEN, answers("Better now.")])
        for _ in range(2):
            await assistant.post()
        response = await assistant.post()
        assert route_headers(response) == ("previous", "production=circuit_open", None)
        assert assistant.backend.apps == ["new", "old", "new", "old", "old"]
        assistant.clock.now += 30
        assert await assistant.whole() == (NEW, "Better now.")
        assert await assistant.whole() == (NEW, "Better now.")
        assert [t[1:] for t in assistant.metrics.events if t[0] == "breaker_state"] == [
            (NEW, "open"),
            (NEW, "half-open"),
            (NEW, "closed"),
        ]

    asyncio.run(run())


def test_a_probe_whose_client_hung_up_makes_room_for_another() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([BROKEN, BROKEN, hangs, answers("Better now.")])
        for _ in range(2):
            await assistant.post()
        assistant.clock.now += 30
        probe = asyncio.create_task(assistant.post())
        while len(assistant.backend.apps) < 5:
            await asyncio.sleep(0.005)
        probe.cancel()
        await asyncio.wait([probe])
        assert await assistant.whole() == (NEW, "Better now.")

    asyncio.run(run())


def test_the_last_route_is_tried_whatever_its_breaker_says() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([BROKEN] * 5 + [answers("Better now.")], order=("production",))
        for _ in range(5):
            response = await assistant.post()
            assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_error")
        assert await assistant.whole() == (NEW, "Better now.")

    asyncio.run(run())


def test_a_new_package_does_not_inherit_a_breaker() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([BROKEN])
        for _ in range(2):
            await assistant.post()
        routing = assistant.turns.routing
        assistant.turns.routing = routing.promoted(OLD).only(set())
        assistant.turns.routing = routing
        await assistant.post()
        assert assistant.backend.apps[-2:] == ["new", "old"]

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_fixed_words_say_that_they_are_that(stream: bool) -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([BROKEN], order=("production", "words"))
        response = await assistant.post(stream=stream)
        assert response.status_code == 200
        assert WORDS in response.text
        assert NEW not in response.text
        assert '"model":"words"' in response.text.replace(": ", ":")
        assert '"finish_reason":"stop"' in response.text.replace(": ", ":")
        assert route_headers(response) == ("words", "production=engine_error", None)
        (row,) = assistant.rows
        assert (row.status, row.route, row.digest, row.prompt_tokens, row.completion_tokens) == (200, "words", "", 0, 0)

    asyncio.run(run())


def test_a_previous_package_that_is_gone_is_no_route() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([BROKEN])
        assistant.turns.routing = assistant.turns.routing.only(set())
        assert (await assistant.whole())[0] == "words"

    asyncio.run(run())


def test_before_the_first_promotion_no_words_pretend() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([BROKEN])
        assistant.turns.routing = Routing()
        response = await assistant.post()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_production_model")

    asyncio.run(run())


def test_a_promotion_remembers_the_package_before_and_a_way_back_forgets_it() -> None:
    served = {d: ServedPackage(app=d[:3], name="tulip", max_new_tokens=50, since=1) for d in (NEW, OLD)}
    first = Routing(served=served).promoted(OLD)
    assert (first.production, first.previous) == (OLD, None)
    second = first.promoted(NEW)
    assert (second.production, second.previous) == (NEW, OLD)
    assert second.promoted(NEW) == second
    back = second.promoted(OLD)
    assert (back.production, back.previous) == (OLD, None)
    assert (second.only(set()).previous, second.only({OLD}).previous) == (None, OLD)


@pytest.mark.parametrize("order", [(), ("words",), ("production", "words", "previous"), ("production", "production")])
def test_an_order_that_makes_no_sense_is_refused(order: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        ScriptedAssistant([BROKEN], order=order)
