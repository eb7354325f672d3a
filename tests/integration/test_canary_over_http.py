"""Tests of a canary beside production, over HTTP in one process: its users, its failures, and each rollout step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pandas as pd
import pytest
from pydantic import ValidationError

from deployments.app.routing.routing import Routing, ServedPackage
from deployments.app.routing.traffic_split import bucket, user_bucket_key
from deployments.core.messages import Event, TurnRequest
from deployments.core.settings import CacheSettings, ShadowSettings
from tasks.core.errors import GraftError
from tasks.monitoring.telemetry_row import TelemetryRow
from tests.support.assistant_in_process import ALL, NEW, OLD, Script, ScriptedAssistant, answers, refuses

CACHE = CacheSettings(mb=1, max_age_s=100, semantic=False, threshold=0.9, entries=3)
SHADOW = ShadowSettings(fraction=0.5, concurrency=2, max_open_requests=10, timeout_s=5)
THIRD = "c" * 64
SERVED = {
    digest: ServedPackage(app=app, name="tulip", max_new_tokens=50, since=1)
    for digest, app in ((NEW, "new"), (OLD, "old"))
}
ALONE = Routing(production=OLD, served=SERVED)


def bucket_of(user: str) -> float:
    """A user's bucket for the canary, in [0, 100)."""
    return bucket(NEW, user_bucket_key("anonymous", TurnRequest(customer=user)))


USERS = sorted((f"C-{number}" for number in range(200)), key=bucket_of)
FIRST, LAST = USERS[0], USERS[-1]
"""The first and the last user whom a growing percentage assigns to the canary."""


def canary_assistant(*scripts: Script, percent: float = 50, **options: Any) -> ScriptedAssistant:
    """An assistant with the old package in production, and the new one, with `scripts`, as the canary."""
    assistant = ScriptedAssistant(list(scripts) or [answers("From the new one.")], **options)
    assistant.turns.routing = ALONE.with_canary(NEW, percent)
    return assistant


async def health(assistant: ScriptedAssistant) -> httpx.Response:
    async with assistant.http() as http:
        return await http.get("/healthz")


def route_of(response: httpx.Response) -> tuple[str, str, str | None]:
    """The model of an answer, its route, and its fallback reason, if any."""
    return response.json()["model"], response.headers["x-graft-route"], response.headers.get("x-graft-fallback")


def test_its_users_are_answered_by_the_canary_and_the_headers_say_so() -> None:
    async def run() -> None:
        assistant = canary_assistant()
        assert route_of(await assistant.post(user=FIRST)) == (NEW, "canary", None)
        assert route_of(await assistant.post(user=LAST)) == (OLD, "production", None)
        assert route_of(await assistant.post(user=FIRST, model="tulip")) == (NEW, "canary", None)
        assert [(row.route, row.digest, row.meant) for row in assistant.rows[:2]] == [
            ("canary", NEW, NEW),
            ("production", OLD, OLD),
        ]

    asyncio.run(run())


def test_a_row_has_a_pseudonymous_user_id_by_the_key_of_the_traffic_split() -> None:
    async def run() -> None:
        assistant = canary_assistant()
        for user in (FIRST, FIRST, LAST, None):
            await assistant.post(**({"user": user} if user else {}))
        first, again, last, anonymous = (row.visitor for row in assistant.rows)
        assert first == again
        assert len({first, last, anonymous, ""}) == 4
        assert not [row for row in assistant.rows for word in (FIRST, LAST, "Hello") if word in row.model_dump_json()]

    asyncio.run(run())


def test_who_asks_for_a_digest_is_never_moved() -> None:
    async def run() -> None:
        assistant = canary_assistant(percent=99)
        for user in (FIRST, LAST):
            assert route_of(await assistant.post(user=user, model=OLD)) == (OLD, "digest", None)
            assert route_of(await assistant.post(user=user, model=NEW)) == (NEW, "digest", None)

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_canary_that_fails_is_followed_by_production_and_its_failure_stays_its_own(stream: bool) -> None:
    async def run() -> None:
        assistant = canary_assistant(refuses(500, "engine_error"))
        response = await assistant.post(user=FIRST, stream=stream)
        assert response.status_code == 200
        assert OLD in response.text
        assert response.headers["x-graft-fallback"] == "canary=engine_error"
        (row,) = assistant.rows
        assert (row.route, row.digest, row.meant) == ("production", OLD, NEW)

    asyncio.run(run())


def test_a_canary_that_keeps_failing_is_left_alone() -> None:
    async def run() -> None:
        assistant = canary_assistant(refuses(500, "engine_error"))
        for _ in range(4):
            await assistant.post(user=FIRST)
        assert assistant.backend.apps == ["new", "old", "new", "old", "old", "old"]
        row = assistant.rows[-1]
        assert row.passed_over == "canary=circuit_open"

    asyncio.run(run())


def test_a_canary_that_was_in_production_before_is_asked_once() -> None:
    async def run() -> None:
        assistant = canary_assistant(refuses(500, "engine_error"), order=ALL)
        assistant.turns.routing = Routing(production=OLD, previous=NEW, served=SERVED).with_canary(NEW, 99)
        await assistant.post(user=FIRST)
        assert assistant.backend.apps == ["new", "old"]

    asyncio.run(run())


def test_answers_of_one_package_are_not_kept_for_the_users_of_the_other() -> None:
    async def run() -> None:
        assistant = canary_assistant(cache=CACHE)
        # No user is named, so the text alone decides: the same question, before and after it moves to the canary.
        assistant.turns.routing = ALONE
        seen = [await assistant.post() for _ in range(2)]
        position = bucket(NEW, user_bucket_key("anonymous", TurnRequest(text="Hello?")))
        assistant.turns.routing = ALONE.with_canary(NEW, position + (100 - position) / 2)
        seen += [await assistant.post() for _ in range(2)]
        assistant.turns.routing = ALONE
        seen.append(await assistant.post())
        assert [(r.json()["model"], r.headers["x-graft-cache"]) for r in seen] == [
            (OLD, "miss"),
            (OLD, "hit"),
            (NEW, "miss"),
            (NEW, "hit"),
            (OLD, "hit"),
        ]

    asyncio.run(run())


def test_what_production_gave_in_the_canarys_place_is_not_kept_as_the_canarys() -> None:
    async def run() -> None:
        assistant = canary_assistant(refuses(500, "engine_error"), answers("From the new one."), cache=CACHE)
        models = [(await assistant.post(user=FIRST)).json()["model"] for _ in range(2)]
        assert models == [OLD, NEW]

    asyncio.run(run())


def test_health_tells_what_a_rollout_waits_for() -> None:
    async def run() -> None:
        assistant = canary_assistant(percent=5)
        body = (await health(assistant)).json()
        assert body == {"status": "ok", **assistant.turns.routing.health()}
        assert (body["canary"], body["shadow"]) == ({"digest": NEW, "percent": 5.0}, None)
        assistant.turns.routing = assistant.turns.routing.with_shadow(NEW)
        body = (await health(assistant)).json()
        assert (body["canary"], body["shadow"]) == (None, NEW)

    asyncio.run(run())


def test_a_package_has_one_role() -> None:
    routing = ALONE.with_shadow(NEW)
    assert (routing.shadow, routing.canary) == (NEW, None)
    routing = routing.with_canary(NEW, 5)
    assert routing.shadow is None and routing.canary is not None
    promoted = routing.promoted(NEW)
    assert (promoted.production, promoted.previous, promoted.canary, promoted.shadow) == (NEW, OLD, None, None)
    assert routing.without_trial_traffic() == ALONE
    with pytest.raises(ValidationError, match="canary and shadow"):
        Routing.model_validate({**routing.model_dump(), "shadow": NEW})


def test_a_promotion_leaves_another_canary_where_it_is() -> None:
    third = {**SERVED, THIRD: SERVED[NEW]}
    routing = Routing(production=OLD, served=third).with_canary(NEW, 5).promoted(THIRD)
    assert routing.production == THIRD
    assert routing.canary is not None and routing.canary.digest == NEW


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda: ALONE.with_canary(NEW, 0), "greater than 0"),
        (lambda: ALONE.with_canary(NEW, 100), "less than 100"),
        (lambda: ALONE.with_canary(OLD, 5), "no other package in production"),
        (lambda: ALONE.with_shadow(OLD), "no other package in production"),
        (lambda: Routing(served=SERVED).with_shadow(NEW), "no other package in production"),
        (lambda: ALONE.with_canary(THIRD, 5), "is not served"),
        (lambda: ALONE.with_shadow(THIRD), "is not served"),
    ],
)
def test_what_cannot_stand_beside_production_is_refused(change: Callable[[], Routing], why: str) -> None:
    with pytest.raises(GraftError, match=why):
        change()


def test_canary_and_shadow_are_not_retired() -> None:
    third = {**SERVED, THIRD: SERVED[NEW]}
    routing = Routing(production=OLD, served=third).with_canary(NEW, 5).with_shadow(THIRD)
    assert routing.only(set()) == routing
    assert set(routing.with_shadow(NEW).only(set()).served) == {OLD, NEW}
    assert set(routing.without_trial_traffic().only(set()).served) == {OLD}


def test_rows_of_one_window_are_assigned_by_their_intended_package() -> None:
    """Rows that production answered instead of the canary count for the canary; those by digest for neither."""

    async def run() -> list[TelemetryRow]:
        assistant = canary_assistant(answers("From the new one."), refuses(500, "engine_error"))
        for user, model in ((FIRST, "production"), (FIRST, "production"), (LAST, "production"), (LAST, NEW)):
            await assistant.post(user=user, model=model)
        return assistant.rows

    rows = pd.DataFrame([row.model_dump() for row in asyncio.run(run())])
    for_production = rows[(rows["operation"] == "chat") & (rows["route"] != "digest")]
    by_package = {digest: list(group["digest"]) for digest, group in for_production.groupby("meant")}
    assert by_package == {NEW: [NEW, OLD], OLD: [OLD]}


def slowly(text: str) -> Script:
    """`text`, over several iterations of the event loop, so that the traffic split changes in the middle of it."""

    async def script(ask: TurnRequest) -> AsyncGenerator[Event]:
        async for event in answers(text)(ask):
            await asyncio.sleep(0.002)
            yield event

    return script


STEPS: tuple[tuple[float, Callable[[Routing], Routing]], ...] = (
    (0, lambda routing: routing.model_copy(update={"served": SERVED})),
    (0, lambda routing: routing.with_shadow(NEW)),
    (5, lambda routing: routing.with_canary(NEW, 5)),
    (25, lambda routing: routing.with_canary(NEW, 25)),
    (50, lambda routing: routing.with_canary(NEW, 50)),
    (100, lambda routing: routing.promoted(NEW)),
    (0, lambda routing: routing.promoted(OLD)),
)
"""The steps from a package that is only served to production and back, each with its percentage of users."""


def test_no_step_of_a_rollout_loses_a_request() -> None:
    """Eight users send requests without pause, half of them streaming, while the routing is swapped."""

    async def run() -> None:
        assistant = ScriptedAssistant([slowly("From the new one.")], shadow=SHADOW, first_token_s=20)
        assistant.backend.scripts["old"] = [slowly("From the old one.")]
        assistant.turns.routing = Routing(production=OLD, served={OLD: SERVED[OLD]})
        answered: dict[str, list[str]] = {user: [] for user in USERS[::25]}
        over = asyncio.Event()

        async def keep_asking(user: str, stream: bool) -> None:
            while not over.is_set():
                response = await assistant.post(user=user, stream=stream)
                assert response.status_code == 200, response.text
                assert not stream or response.text.endswith("data: [DONE]\n\n")
                (by,) = (digest for digest in (NEW, OLD) if digest in response.text)
                answered[user].append(by)

        asking = [asyncio.create_task(keep_asking(user, n % 2 == 0)) for n, user in enumerate(answered)]
        for percent, change in STEPS:
            assistant.turns.routing = change(assistant.turns.routing)
            # Of each user's next two answers, the second was requested after the swap.
            goals = {user: len(seen) + 2 for user, seen in answered.items()}
            while any(len(answered[user]) < goal for user, goal in goals.items()):
                assert not any(task.done() for task in asking), [task for task in asking if task.done()]
                await asyncio.sleep(0.001)
            now = {user: seen[-1] for user, seen in answered.items()}
            assert now == {user: NEW if bucket_of(user) < percent else OLD for user in answered}
        over.set()
        await asyncio.gather(*asking)
        rows = [row for row in assistant.rows if row.operation == "chat"]
        assert {(row.status, row.passed_over) for row in rows} == {(200, "")}
        assert len(rows) == sum(map(len, answered.values()))
        assert [row for row in assistant.rows if row.operation == "shadow"]

    asyncio.run(run())
