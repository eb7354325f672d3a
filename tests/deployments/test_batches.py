"""The queue before an engine: together where possible, bounded, and ended when nobody listens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from deployments.batches import Batches, QueueFullError
from tasks.engine.protocol import Chunk, GenerationRequest


class SteppedEngine:
    """Gives one token per permission; says which batches it saw and how many steps it took."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.steps = 0
        self.may_step = threading.Semaphore(0)
        self.closed = threading.Event()

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[Chunk]:
        self.batches.append(len(requests))
        try:
            for step in range(1, 1 + max(r.max_new_tokens for r in requests)):
                assert self.may_step.acquire(timeout=30)
                self.steps += 1
                for index, request in enumerate(requests):
                    if step <= request.max_new_tokens:
                        ended = step == request.max_new_tokens
                        yield Chunk(index, f"{request.prompt_ids[0]}.{step} ", (step,), "length" if ended else None)
        finally:
            self.closed.set()


def request(number: int, tokens: int) -> GenerationRequest:
    return GenerationRequest((number,), max_new_tokens=tokens)


async def text(batches: Batches, number: int, tokens: int) -> str:
    return "".join([chunk.text async for chunk in batches.follow(batches.admit(request(number, tokens)))])


async def until(condition: object) -> None:
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def test_who_waits_is_served_together_and_gets_its_own_text() -> None:
    async def run() -> None:
        engine = SteppedEngine()
        batches = Batches(engine, batch_size=3, max_queued=10)
        first = asyncio.create_task(text(batches, 0, 1))
        await until(lambda: engine.batches)
        others = [asyncio.create_task(text(batches, n, n)) for n in (1, 2, 3, 4)]
        await asyncio.sleep(0)
        engine.may_step.release(100)
        assert await first == "0.1 "
        assert await asyncio.gather(*others) == ["".join(f"{n}.{i + 1} " for i in range(n)) for n in (1, 2, 3, 4)]
        assert engine.batches == [1, 3, 1]

    asyncio.run(run())


def test_more_than_may_wait_are_refused_and_leaving_makes_room() -> None:
    async def run() -> None:
        engine = SteppedEngine()
        batches = Batches(engine, batch_size=1, max_queued=2)
        running = asyncio.create_task(text(batches, 0, 1))
        await until(lambda: engine.batches)
        waiting = [asyncio.create_task(text(batches, n, 1)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            batches.admit(request(3, 1))
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        later = asyncio.create_task(text(batches, 4, 1))
        await asyncio.sleep(0)
        engine.may_step.release(10)
        assert await asyncio.gather(running, waiting[1], later) == ["0.1 ", "2.1 ", "4.1 "]

    asyncio.run(run())


def test_hanging_up_ends_the_work_within_one_step() -> None:
    async def run() -> None:
        engine = SteppedEngine()
        batches = Batches(engine, batch_size=1, max_queued=2)
        chunks = batches.follow(batches.admit(request(0, 1000)))
        engine.may_step.release()
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
        engine.may_step.release(1000)
        assert await asyncio.to_thread(engine.closed.wait, 30)
        assert engine.steps == 2

    asyncio.run(run())


def test_a_batch_goes_on_while_one_still_listens() -> None:
    async def run() -> None:
        engine = SteppedEngine()
        batches = Batches(engine, batch_size=2, max_queued=4)
        blocker = asyncio.create_task(text(batches, 9, 1))
        await until(lambda: engine.batches)
        leaves, stays = (asyncio.create_task(text(batches, n, 5)) for n in (1, 2))
        await asyncio.sleep(0)
        engine.may_step.release(2)
        await blocker
        leaves.cancel()
        engine.may_step.release(100)
        assert await stays == "".join(f"2.{i} " for i in range(1, 6))

    asyncio.run(run())


class BrokenOnce(SteppedEngine):
    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[Chunk]:
        self.may_step.release(10)
        if not self.batches:
            self.batches.append(0)
            raise RuntimeError("out of memory")
        yield from super().stream(requests)


def test_an_engines_failure_reaches_who_asked_and_the_next_is_served() -> None:
    async def run() -> None:
        batches = Batches(BrokenOnce(), batch_size=2, max_queued=4)
        with pytest.raises(RuntimeError, match="out of memory"):
            await text(batches, 1, 1)
        assert await text(batches, 2, 1) == "2.1 "

    asyncio.run(run())
