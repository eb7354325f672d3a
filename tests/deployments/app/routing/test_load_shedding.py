"""Load shedding: a request beyond an application's capacity is refused without a call of the application."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from deployments.app.routing.load_shedding import LoadShedding
from deployments.core.messages import OVERLOADED, Event, Refusal, TurnEnd, TurnRequest
from tests.support.assistant_in_process import Clock, Script, ScriptedBackend, answers, refuses, unsearched

ASK = TurnRequest(text="Well")


class LoadSheddingSetup:
    """Load shedding before a backend of two applications, which records its calls."""

    def __init__(self, *scripts: Script, capacity: int = 2) -> None:
        self.backend = ScriptedBackend({"main": list(scripts), "other": [answers("Fine.")]})
        self.clock = Clock()
        self.shedding = LoadShedding(self.backend, capacity, self.clock)

    async def last(self, app: str = "main") -> Event:
        return [event async for event in self.shedding.stream(app, ASK, unsearched())][-1]


def test_beyond_the_room_nothing_is_asked_until_a_request_ends() -> None:
    async def run() -> None:
        setup = LoadSheddingSetup(answers("Here."))
        async with (
            aclosing(setup.shedding.stream("main", ASK, unsearched())) as first,
            aclosing(setup.shedding.stream("main", ASK, unsearched())) as second,
        ):
            await anext(first), await anext(second)
            refused = await setup.last()
            assert isinstance(refused, Refusal)
            assert (refused.status, refused.code) == (503, OVERLOADED)
            assert refused.retry_after_s
            assert setup.backend.apps == ["main", "main"]
            assert setup.shedding.open == 2
            assert isinstance(await setup.last("other"), TurnEnd)
            await first.aclose()
            assert isinstance(await setup.last(), TurnEnd)
            assert setup.shedding.open == 1

    asyncio.run(run())


def test_a_refusal_for_want_of_room_holds_for_a_moment() -> None:
    async def run() -> None:
        setup = LoadSheddingSetup(refuses(503, OVERLOADED), answers("Here."))
        first = await setup.last()
        setup.clock.now += 0.4
        assert await setup.last() == first
        assert setup.backend.apps == ["main"]
        assert isinstance(await setup.last("other"), TurnEnd)
        setup.clock.now += 0.2
        assert isinstance(await setup.last(), TurnEnd)

    asyncio.run(run())


def test_other_refusals_shed_no_later_request() -> None:
    async def run() -> None:
        setup = LoadSheddingSetup(refuses(500, "engine_error"), answers("Here."))
        assert isinstance(await setup.last(), Refusal)
        assert isinstance(await setup.last(), TurnEnd)

    asyncio.run(run())
