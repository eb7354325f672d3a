"""What an application has no room for is refused without asking it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from deployments.app.routing.load_shedding import LoadShedding
from deployments.core.messages import OVERLOADED, Event, Refusal, TurnEnd, TurnRequest
from tests.support.assistant_in_process import Clock, Script, ScriptedBackend, answers, refuses, unsearched

ASK = TurnRequest(text="Well")


class Door:
    """Sheds before a backend of two applications, and keeps what was asked."""

    def __init__(self, *scripts: Script, room: int = 2) -> None:
        self.backend = ScriptedBackend({"desk": list(scripts), "other": [answers("Fine.")]})
        self.clock = Clock()
        self.shedding = LoadShedding(self.backend, room, self.clock)

    async def last(self, app: str = "desk") -> Event:
        return [event async for event in self.shedding.stream(app, ASK, unsearched())][-1]


def test_beyond_the_room_nothing_is_asked_until_a_request_ends() -> None:
    async def run() -> None:
        desk = Door(answers("Here."))
        async with (
            aclosing(desk.shedding.stream("desk", ASK, unsearched())) as first,
            aclosing(desk.shedding.stream("desk", ASK, unsearched())) as second,
        ):
            await anext(first), await anext(second)
            refused = await desk.last()
            assert isinstance(refused, Refusal)
            assert (refused.status, refused.code) == (503, OVERLOADED)
            assert refused.retry_after_s
            assert desk.backend.apps == ["desk", "desk"]
            assert desk.shedding.open == 2
            assert isinstance(await desk.last("other"), TurnEnd)
            await first.aclose()
            assert isinstance(await desk.last(), TurnEnd)
            assert desk.shedding.open == 1

    asyncio.run(run())


def test_a_refusal_for_want_of_room_holds_for_a_moment() -> None:
    async def run() -> None:
        desk = Door(refuses(503, OVERLOADED), answers("Here."))
        first = await desk.last()
        desk.clock.now += 0.4
        assert await desk.last() == first
        assert desk.backend.apps == ["desk"]
        assert isinstance(await desk.last("other"), TurnEnd)
        desk.clock.now += 0.2
        assert isinstance(await desk.last(), TurnEnd)

    asyncio.run(run())


def test_other_refusals_close_no_door() -> None:
    async def run() -> None:
        desk = Door(refuses(500, "engine_error"), answers("Here."))
        assert isinstance(await desk.last(), Refusal)
        assert isinstance(await desk.last(), TurnEnd)

    asyncio.run(run())
