"""Batching before an engine: bounded, together where possible, and cancelled when the client has hung up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from deployments.replicas.batching import BatchingQueue, OverloadedError
from tasks.engine.protocol import GenerationRequest, SamplingParams, TokenChunk
from tests.support.scripted_engine import ScriptChunk, ScriptedEngine


def numbered(request: GenerationRequest) -> Iterator[ScriptChunk]:
    """As many chunks as tokens were requested, each with the prompt's first token and its own number."""
    for step in range(1, request.max_new_tokens + 1):
        yield f"{request.prompt_ids[0]}.{step} ", (step,), "length" if step == request.max_new_tokens else None


class SteppedEngine(ScriptedEngine):
    """Takes one step per permission."""

    def __init__(self) -> None:
        super().__init__(numbered)
        self.may_step = threading.Semaphore(0)

    def step(self) -> list[TokenChunk]:
        assert self.may_step.acquire(timeout=30)
        return super().step()


def request(number: int, tokens: int) -> GenerationRequest:
    return GenerationRequest((number,), SamplingParams(tokens))


async def text(batches: BatchingQueue, number: int, tokens: int) -> str:
    return "".join([chunk.text async for chunk in batches.follow(batches.admit(request(number, tokens)))])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def expected(number: int, tokens: int) -> str:
    return "".join(f"{number}.{step} " for step in range(1, tokens + 1))


def test_who_waits_joins_those_who_run_and_gets_its_own_text() -> None:
    async def run() -> None:
        engine = SteppedEngine()
        batches = BatchingQueue(engine, max_num_seqs=3, max_queued=10, max_wait_s=60)
        first = asyncio.create_task(text(batches, 0, 4))
        await until(lambda: engine.requests)
        others = [asyncio.create_task(text(batches, n, n)) for n in (1, 2, 3, 4)]
        await asyncio.sleep(0)
        engine.may_step.release(100)
        assert await first == expected(0, 4)
        assert await asyncio.gather(*others) == [expected(n, n) for n in (1, 2, 3, 4)]
        # 0 alone; then 1 and 2 beside it; 3 takes the slot of 1; 4 that of 2; and so on to the end.
        assert engine.together[:4] == [1, 3, 3, 3]
        assert [r.prompt_ids[0] for r in engine.requests] == [0, 1, 2, 3, 4]
        assert not engine.cancelled

    asyncio.run(run())


def test_more_than_may_wait_are_refused_and_a_cancelled_one_makes_room() -> None:
    async def run() -> None:
        engine = SteppedEngine()
        batches = BatchingQueue(engine, max_num_seqs=1, max_queued=2, max_wait_s=60)
        running = asyncio.create_task(text(batches, 0, 1))
        await until(lambda: engine.requests)
        waiting = [asyncio.create_task(text(batches, n, 1)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
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
        batches = BatchingQueue(engine, max_num_seqs=1, max_queued=2, max_wait_s=60)
        chunks = batches.follow(batches.admit(request(0, 1000)))
        engine.may_step.release()
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
        engine.may_step.release(1000)
        await until(lambda: engine.cancelled)
        assert sum(engine.together) <= 2

    asyncio.run(run())


def test_the_others_go_on_when_one_leaves() -> None:
    async def run() -> None:
        engine = SteppedEngine()
        batches = BatchingQueue(engine, max_num_seqs=2, max_queued=4, max_wait_s=60)
        leaves, stays = (asyncio.create_task(text(batches, n, 5)) for n in (1, 2))
        await until(lambda: len(engine.requests) > 0)
        engine.may_step.release(2)
        await until(lambda: len(engine.together) == 2)
        leaves.cancel()
        await asyncio.wait([leaves])  # gone before the engine, which waits for its permission, goes on
        engine.may_step.release(100)
        assert await stays == expected(2, 5)
        assert [r.prompt_ids[0] for r in engine.cancelled] == [1]

    asyncio.run(run())


class BrokenOnce(SteppedEngine):
    """Fails in its first step, and again when it is to cancel its requests."""

    def step(self) -> list[TokenChunk]:
        self.may_step.release(10)
        if not self.together:
            self.together.append(0)
            raise RuntimeError("out of memory")
        return super().step()

    def cancel(self, key: int) -> None:
        super().cancel(key)
        raise RuntimeError("still out of memory")


def test_an_engines_failure_reaches_who_asked_and_the_next_is_served() -> None:
    async def run() -> None:
        batches = BatchingQueue(BrokenOnce(), max_num_seqs=2, max_queued=4, max_wait_s=60)
        with pytest.raises(RuntimeError, match=r"^out of memory"):
            await text(batches, 1, 1)
        assert await text(batches, 2, 1) == "2.1 "

    asyncio.run(run())


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    async def run() -> None:
        engine = SteppedEngine()
        batches = BatchingQueue(engine, max_num_seqs=1, max_queued=10, max_wait_s=0.5)
        engine.may_step.release()
        await text(batches, 0, 1)
        assert batches._slot_s > 0  # measured; from here on a known one
        batches._slot_s = 0.2
        others = [asyncio.create_task(text(batches, n, 1)) for n in (1, 2, 3)]
        await until(lambda: len(engine.requests) == 2 and len(batches._waiting) == 2)
        with pytest.raises(OverloadedError) as error:
            batches.admit(request(4, 1))
        assert error.value.wait_s == pytest.approx(0.6)
        engine.may_step.release(10)
        assert await asyncio.gather(*others) == ["1.1 ", "2.1 ", "3.1 "]

    asyncio.run(run())


class Refusing(SteppedEngine):
    """Takes no request whose prompt begins with 1."""

    def submit(self, key: int, request: GenerationRequest) -> None:
        if request.prompt_ids[0] == 1:
            raise ValueError("not this one")
        super().submit(key, request)


def test_a_request_that_the_engine_refuses_affects_no_other() -> None:
    async def run() -> None:
        engine = Refusing()
        batches = BatchingQueue(engine, max_num_seqs=2, max_queued=4, max_wait_s=60)
        engine.may_step.release(10)
        async with asyncio.timeout(30):
            results = await asyncio.gather(*(text(batches, n, 1) for n in (1, 2, 3)), return_exceptions=True)
        assert isinstance(results[0], ValueError)
        assert results[1:] == ["2.1 ", "3.1 "]

    asyncio.run(run())
