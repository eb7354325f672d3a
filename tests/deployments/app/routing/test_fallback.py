"""Fallback over HTTP in one process: packages that fail by a script, the routes and turns that serve.

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
from tests.support.assistant_in_process import NEW, OLD, WORDS, Desk, Script, answers, refuses

UNREACHABLE = refuses(503, "engine_unavailable")
BROKEN = refuses(500, "engine_error")


async def hangs(_: TurnRequest) -> AsyncGenerator[Event]:
    await asyncio.sleep(60)
    yield  # type: ignore[misc]  # which makes it a generator


def told(response: httpx.Response) -> tuple[str | None, ...]:
    return tuple(response.headers.get(f"x-graft-{name}") for name in ("route", "fallback", "retries"))


def test_a_package_that_answers_needs_no_other_route() -> None:
    async def run() -> None:
        desk = Desk([answers("From the new one.")])
        response = await desk.post()
        assert response.json()["model"] == NEW
        assert told(response) == ("production", None, None)
        (row,) = desk.rows
        assert (row.route, row.digest, row.passed_over, row.retries) == ("production", NEW, "", 0)

    asyncio.run(run())


@pytest.mark.parametrize("script", [BROKEN, refuses(503, "overloaded"), refuses(504, "timeout"), hangs])
@pytest.mark.parametrize("stream", [False, True])
def test_a_route_that_fails_before_its_first_token_is_followed_by_the_next(stream: bool, script: Script) -> None:
    async def run() -> None:
        desk = Desk([script])
        response = await desk.post(stream=stream)
        assert response.status_code == 200
        assert OLD in response.text
        assert NEW not in response.text
        route, reason, retries = told(response)
        assert (route, retries) == ("previous", None)
        assert reason is not None and reason.startswith("production=")
        assert desk.backend.apps == ["new", "old"]
        (row,) = desk.rows
        assert (row.status, row.route, row.digest, row.passed_over) == (200, "previous", OLD, reason)

    asyncio.run(run())


def test_a_whole_answer_falls_back_even_after_its_first_token_for_nothing_was_sent() -> None:
    async def run() -> None:
        desk = Desk([refuses(500, "engine_error", after="Well, ")])
        assert await desk.whole() == (OLD, "From the old one.")

    asyncio.run(run())


def test_a_stream_that_has_begun_never_changes_its_model() -> None:
    async def run() -> None:
        desk = Desk([refuses(503, "engine_unavailable", after="Well, ")])
        response = await desk.post(stream=True)
        assert NEW in response.text
        assert "refused: engine_unavailable" in response.text
        assert desk.backend.apps == ["new"]
        assert (desk.rows[0].status, desk.rows[0].route) == (503, "production")

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_own_fault_is_told_and_not_held_against_the_route(stream: bool) -> None:
    async def run() -> None:
        desk = Desk([refuses(400, "context_length_exceeded")])
        for _ in range(5):
            response = await desk.post(stream=stream)
            assert (response.status_code, told(response)) == (400, ("production", None, None))
        assert desk.backend.apps == ["new"] * 5

    asyncio.run(run())


def test_overload_falls_back_and_opens_no_breaker() -> None:
    async def run() -> None:
        desk = Desk([refuses(503, "overloaded")])
        for _ in range(5):
            await desk.post()
        assert desk.backend.apps == ["new", "old"] * 5

    asyncio.run(run())


@pytest.mark.parametrize("script", [UNREACHABLE, BROKEN])
def test_who_asks_for_a_digest_gets_that_package_or_its_own_error(script: Script) -> None:
    async def run() -> None:
        desk = Desk([script])
        response = await desk.post(model=NEW)
        assert response.status_code >= 500
        assert told(response)[:2] == ("digest", None)
        assert "old" not in desk.backend.apps
        assert (await desk.post(model=OLD)).json()["model"] == OLD

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_replica_that_is_gone_is_asked_again_first(stream: bool) -> None:
    async def run() -> None:
        desk = Desk([UNREACHABLE, answers("From its successor.")])
        response = await desk.post(stream=stream)
        assert NEW in response.text
        assert told(response) == ("production", None, "1")
        assert desk.backend.apps == ["new", "new"]
        assert (desk.rows[0].route, desk.rows[0].retries) == ("production", 1)
        assert desk.rows[0].first_token_ms is not None

    asyncio.run(run())


def test_attempts_are_bounded() -> None:
    async def run() -> None:
        desk = Desk([UNREACHABLE])
        assert (await desk.whole())[0] == OLD
        assert desk.backend.apps == ["new", "new", "old"]

    asyncio.run(run())


def test_a_spent_budget_leaves_no_retries() -> None:
    async def run() -> None:
        desk = Desk([UNREACHABLE], retries=RetrySettings(attempts=9, backoff_s=0.001, ratio=0.0, per_minute=1))
        assert (await desk.whole())[0] == OLD
        assert desk.backend.apps == ["new", "new", "old"]
        assert [t for t in desk.metrics.events if t[0] == "retry"] == [
            ("retry", "production", "True"),
            ("retry", "production", "False"),
        ]

    asyncio.run(run())


def test_an_open_breaker_skips_its_route_until_a_probe_succeeds() -> None:
    async def run() -> None:
        desk = Desk([BROKEN, BROKEN, answers("Better now.")])
        for _ in range(2):
            await desk.post()
        response = await desk.post()
        assert told(response) == ("previous", "production=circuit_open", None)
        assert desk.backend.apps == ["new", "old", "new", "old", "old"]
        desk.clock.now += 30
        assert await desk.whole() == (NEW, "Better now.")
        assert await desk.whole() == (NEW, "Better now.")
        assert [t[1:] for t in desk.metrics.events if t[0] == "breaker_state"] == [
            (NEW, "open"),
            (NEW, "half-open"),
            (NEW, "closed"),
        ]

    asyncio.run(run())


def test_a_probe_whose_client_hung_up_makes_room_for_another() -> None:
    async def run() -> None:
        desk = Desk([BROKEN, BROKEN, hangs, answers("Better now.")])
        for _ in range(2):
            await desk.post()
        desk.clock.now += 30
        probe = asyncio.create_task(desk.post())
        while len(desk.backend.apps) < 5:
            await asyncio.sleep(0.005)
        probe.cancel()
        await asyncio.wait([probe])
        assert await desk.whole() == (NEW, "Better now.")

    asyncio.run(run())


def test_the_last_route_is_tried_whatever_its_breaker_says() -> None:
    async def run() -> None:
        desk = Desk([BROKEN] * 5 + [answers("Better now.")], order=("production",))
        for _ in range(5):
            response = await desk.post()
            assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_error")
        assert await desk.whole() == (NEW, "Better now.")

    asyncio.run(run())


def test_a_new_package_does_not_inherit_a_breaker() -> None:
    async def run() -> None:
        desk = Desk([BROKEN])
        for _ in range(2):
            await desk.post()
        routing = desk.turns.routing
        desk.turns.routing = routing.promoted(OLD).only(set())
        desk.turns.routing = routing
        await desk.post()
        assert desk.backend.apps[-2:] == ["new", "old"]

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_fixed_words_say_that_they_are_that(stream: bool) -> None:
    async def run() -> None:
        desk = Desk([BROKEN], order=("production", "words"))
        response = await desk.post(stream=stream)
        assert response.status_code == 200
        assert WORDS in response.text
        assert NEW not in response.text
        assert '"model":"words"' in response.text.replace(": ", ":")
        assert '"finish_reason":"stop"' in response.text.replace(": ", ":")
        assert told(response) == ("words", "production=engine_error", None)
        (row,) = desk.rows
        assert (row.status, row.route, row.digest, row.prompt_tokens, row.completion_tokens) == (200, "words", "", 0, 0)

    asyncio.run(run())


def test_a_previous_package_that_is_gone_is_no_route() -> None:
    async def run() -> None:
        desk = Desk([BROKEN])
        desk.turns.routing = desk.turns.routing.only(set())
        assert (await desk.whole())[0] == "words"

    asyncio.run(run())


def test_before_the_first_promotion_no_words_pretend() -> None:
    async def run() -> None:
        desk = Desk([BROKEN])
        desk.turns.routing = Routing()
        response = await desk.post()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_production_model")

    asyncio.run(run())


def test_a_promotion_remembers_the_package_before_and_a_way_back_forgets_it() -> None:
    served = {d: ServedPackage(app=d[:3], name="desk", max_new_tokens=50, since=1) for d in (NEW, OLD)}
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
        Desk([BROKEN], order=order)
