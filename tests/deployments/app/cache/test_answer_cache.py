"""The answer cache, over HTTP in one process: which requests are one question, what is kept, and for how long.

Also covers `deployments/app/cache/semantic_index.py`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from deployments.app.cache.answer_cache import AnswerCache, CacheKey, CacheLookup, fingerprint
from deployments.app.cache.semantic_index import SemanticIndex, question_facts
from deployments.app.embeddings import EmbeddingService
from deployments.app.routes import create_app
from deployments.core.messages import TurnRequest, Vectors
from deployments.core.ports import free_port
from deployments.core.settings import CacheSettings
from tasks.core.errors import GraftError
from tasks.core.records import Message
from tasks.engine.protocol import Regex, SamplingParams
from tasks.rollout.smoke_test import smoke
from tests.support.assistant_in_process import (
    NEW,
    OLD,
    Clock,
    RecordedMetrics,
    ScriptedAssistant,
    answers,
    refuses,
    unsearched,
)

CACHE = CacheSettings(mb=1, max_age_s=100, semantic=False, threshold=0.9, entries=3)
SEMANTIC = CACHE.model_copy(update={"semantic": True})
SEEDED = {"temperature": 1, "seed": 3}


def result(response: httpx.Response) -> str:
    return response.headers["x-graft-cache"]


def cached_assistant(
    text: str = "It left on Tuesday.", cache: CacheSettings = CACHE, **options: Any
) -> ScriptedAssistant:
    return ScriptedAssistant([answers(text)], cache=cache, **options)


def content(response: httpx.Response) -> str:
    """The text of an answer, whole or streamed."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        return response.json()["choices"][0]["message"]["content"]
    chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert response.text.rstrip().endswith("data: [DONE]")
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, SEEDED])
def test_what_repeats_itself_is_computed_once(options: dict[str, Any]) -> None:
    async def run() -> None:
        assistant = cached_assistant()
        first, second = await assistant.post(**options), await assistant.post(**options)
        assert (result(first), result(second)) == ("miss", "hit")
        assert content(first) == content(second)
        assert second.json()["model"] == NEW
        assert second.headers["x-graft-route"] == "production"
        details = [r.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for r in (first, second)]
        assert details == [0, first.json()["usage"]["prompt_tokens"]]
        assert len(assistant.backend.apps) == 1
        assert [(row.cache, row.queue_ms, row.completion_tokens) for row in assistant.rows] == [
            ("miss", 3.0, 5),
            ("hit", 0.0, 5),
        ]
        lookups = [event[1] for event in assistant.metrics.events if event[0] == "cache_lookup"]
        assert lookups == ["miss", "hit"]

    asyncio.run(run())


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_a_stream_and_a_whole_answer_are_one_question(first: bool, second: bool) -> None:
    async def run() -> None:
        assistant = cached_assistant()
        responses = [await assistant.post(stream=first), await assistant.post(stream=second)]
        assert [content(response) for response in responses] == ["It left on Tuesday."] * 2
        assert result(responses[1]) == "hit"

    asyncio.run(run())


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1},
        {"headers": {"Cache-Control": "no-cache"}},
        {"headers": {"Cache-Control": "max-age=0, no-store"}},
    ],
)
def test_what_varies_or_must_be_fresh_is_neither_looked_up_nor_kept(options: dict[str, Any]) -> None:
    async def run() -> None:
        assistant = cached_assistant()
        assert [result(await assistant.post(**options)) for _ in range(2)] == ["off", "off"]
        assert len(assistant.backend.apps) == 2

    asyncio.run(run())


def test_zero_megabytes_are_no_cache() -> None:
    async def run() -> None:
        assistant = cached_assistant(cache=CACHE.model_copy(update={"mb": 0}))
        assert [result(await assistant.post()) for _ in range(2)] == ["off", "off"]

    asyncio.run(run())


def test_a_question_is_all_that_its_answer_depends_on() -> None:
    tool = {"type": "function", "function": {"name": "look_up"}}
    ask = TurnRequest((Message(role="user", content="Hello?"),), SamplingParams(temperature=1.0, seed=1))
    others: dict[str, Any] = {
        "messages": (Message(role="user", content="Hello!"),),
        "tools": (tool,),
        "must_call": ("look_up",),
        "text": "Hello",
        "whole": True,
        "customer": "C-1042",
    }
    sampled: dict[str, Any] = {
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 2,
        "stop": ("x",),
        "logprobs": True,
        "constraint": Regex("yes|no"),
    }
    assert set(others) == {field.name for field in fields(TurnRequest)} - {"key", "sampling"}
    assert set(sampled) == {field.name for field in fields(SamplingParams)}
    changed = [replace(ask, **{name: value}) for name, value in others.items()]
    changed += [replace(ask, sampling=replace(ask.sampling, **{name: value})) for name, value in sampled.items()]
    prints = {fingerprint(ask), *map(fingerprint, changed)}
    assert len(prints) == len(changed) + 1
    earlier = (Message(role="system", content="Hello?"), *ask.messages)
    assert fingerprint(replace(ask, messages=earlier)) not in prints
    assert fingerprint(replace(ask, key="a name")) in prints


def test_greedy_decoding_ignores_seed_and_nucleus() -> None:
    ask = TurnRequest(messages=(Message(role="user", content="Hello?"),))
    assert fingerprint(ask) == fingerprint(replace(ask, sampling=SamplingParams(seed=1, top_p=0.5)))


def test_no_client_gets_an_answer_to_another_key_or_of_another_package() -> None:
    async def run() -> None:
        keys = {"shop": "sk-0123456789abcdef", "batch": "sk-fedcba9876543210"}
        assistant = cached_assistant(keys=keys)
        for key in keys.values():
            for model in ("production", OLD):
                response = await assistant.post(model=model, headers={"Authorization": f"Bearer {key}"})
                assert result(response) == "miss"
        response = await assistant.post(model=NEW, headers={"Authorization": f"Bearer {keys['shop']}"})
        assert result(response) == "hit"

    asyncio.run(run())


def test_a_promotion_is_followed_by_its_own_answers_and_what_is_retired_is_forgotten() -> None:
    async def run() -> None:
        assistant = cached_assistant()
        await assistant.post()
        before = assistant.turns.routing
        assistant.turns.routing = before.promoted(OLD)
        response = await assistant.post()
        assert (result(response), content(response)) == ("miss", "From the old one.")
        assert result(await assistant.post(model=NEW)) == "hit"
        assistant.turns.routing = assistant.turns.routing.only(set())
        assert {key.digest for key in assistant.turns._steps.answer_cache._answers} == {OLD}
        assistant.turns.routing = before
        assert result(await assistant.post(model=NEW)) == "miss"

    asyncio.run(run())


class StaleAnswerCache(AnswerCache):
    """Knows one package, the old one, and gives its answers for all; heeds no `no-cache`."""

    async def look_up(self, tenant: str, digest: str, ask: TurnRequest, cache_control: str) -> CacheLookup:
        return await super().look_up(tenant, OLD, ask, "")


@contextmanager
def listening(assistant: ScriptedAssistant) -> Iterator[str]:
    """The URL of `assistant` on a port of its own, as the smoke test meets it."""
    app = create_app(assistant.turns, EmbeddingService(assistant.turns, assistant.backend))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("cache", "caught"), [(AnswerCache, False), (StaleAnswerCache, True)], ids=["by package", "one for all packages"]
)
def test_a_deploy_behind_a_stale_cache_is_caught_by_its_smoke_test(cache: type[AnswerCache], caught: bool) -> None:
    """Before the new package was deployed, a client asked the old one the question of the smoke test."""
    assistant = cached_assistant("From the new one.")
    answer_cache = cache(CACHE, assistant.metrics, assistant.clock, None)
    assistant.turns._steps = replace(assistant.turns._steps, answer_cache=answer_cache)
    answer_cache.keep({NEW, OLD})
    body = {"messages": [{"role": "user", "content": "Hello?"}], "logprobs": True}
    with listening(assistant) as url:
        before = httpx.post(f"{url}/chat/completions", json={"model": OLD, **body})
        again = httpx.post(f"{url}/chat/completions", json={"model": OLD, **body})
        assert (result(before), result(again), content(again)) == ("miss", "hit", "From the old one.")
        prompts = {"answer question": [Message(role="user", content="Hello?")]}
        if caught:
            stale = httpx.post(f"{url}/chat/completions", json={"model": NEW, **body}).json()
            assert (stale["model"], stale["choices"][0]["message"]["content"]) == (NEW, "From the old one.")
            with pytest.raises(GraftError, match=r"the cache was not bypassed .*: hit"):
                smoke(url, "none", NEW, prompts, 10.0)
        else:
            assert smoke(url, "none", NEW, prompts, 10.0) == {"answer question": "From the new one."}


def test_an_answer_that_ends_after_its_package_was_retired_is_not_kept() -> None:
    async def run() -> None:
        assistant = cached_assistant()
        cache, before = assistant.turns._steps.answer_cache, assistant.turns.routing
        ask = TurnRequest(messages=(Message(role="user", content="Hello?"),))
        lookup = await cache.look_up("anonymous", NEW, ask, "")
        assistant.turns.routing = before.promoted(OLD).only(set())
        async for _ in cache.keeping(lookup, NEW, assistant.backend.stream("new", ask), unsearched()):
            pass
        assistant.turns.routing = before
        assert (await cache.look_up("anonymous", NEW, ask, "")).result == "miss"

    asyncio.run(run())


@pytest.mark.parametrize("script", [refuses(500, "engine_error"), refuses(500, "engine_error", after="It ")])
@pytest.mark.parametrize("stream", [False, True])
def test_only_whole_answers_of_the_intended_package_are_kept(stream: bool, script: Any) -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([script, answers("Better now.")], cache=CACHE)
        await assistant.post(stream=stream)
        response = await assistant.post(stream=stream)
        assert (result(response), content(response)) == ("miss", "Better now.")

    asyncio.run(run())


def test_answers_age() -> None:
    async def run() -> None:
        assistant = cached_assistant()
        await assistant.post()
        assistant.clock.now += 99
        assert result(await assistant.post()) == "hit"
        assistant.clock.now += 2
        assert result(await assistant.post()) == "miss"

    asyncio.run(run())


def test_what_was_not_asked_for_longest_makes_room_and_what_is_too_large_is_not_kept() -> None:
    async def run() -> None:
        assistant = cached_assistant("x" * 1_100_000)

        async def ask(words: str) -> str:
            return result(await assistant.post(messages=[{"role": "user", "content": words}]))

        assert [await ask("one") for _ in range(2)] == ["miss", "miss"]
        assistant = cached_assistant("x" * 260_000)
        results = [await ask(words) for words in ("one", "two", "three", "one", "four", "five", "one", "two")]
        assert results == ["miss", "miss", "miss", "hit", "miss", "miss", "hit", "miss"]

    asyncio.run(run())


async def by_first_letter(texts: Sequence[str]) -> Vectors:
    """Texts with the same first letter have the same vector."""
    return np.stack([np.eye(26, dtype=np.float32)[ord(text[0].lower()) - 97] for text in texts])


def asks(*words: str) -> dict[str, Any]:
    roles = ("user", "assistant", "user")[-len(words) :]
    return {"messages": [{"role": r, "content": w} for r, w in zip(roles, words, strict=True)]}


def test_the_same_question_in_other_words_is_answered_and_shown_as_such() -> None:
    async def run() -> None:
        assistant = cached_assistant(cache=SEMANTIC, embed=by_first_letter)
        await assistant.post(**asks("Where is my parcel HL-20931?"))
        response = await assistant.post(**asks("Where has hl20931 gone?"))
        assert (result(response), content(response)) == ("semantic", "It left on Tuesday.")
        assert response.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        assert result(await assistant.post(**asks("Has HL-20931 gone?"))) == "miss"

    asyncio.run(run())


@pytest.mark.parametrize(
    "other",
    [
        asks("Which 2 roses may not freeze, HL-20932?"),
        asks("Which 3 roses may not freeze, HL-20931?"),
        asks("Which HL-20931 roses, 2 of them, may not freeze?"),
        asks("Which 2 roses may freeze, HL-20931?"),
        {**asks("Which 2 roses may not freeze, HL-20931?!"), "max_tokens": 9},
        {**asks("Which 2 roses may not freeze, HL-20931?!"), "model": OLD},
        asks("Hello.", "Hello!", "Which 2 roses may not freeze, HL-20931?!"),
    ],
)
def test_a_question_that_differs_in_more_than_words_is_another(other: dict[str, Any]) -> None:
    async def run() -> None:
        assistant = cached_assistant(cache=SEMANTIC, embed=by_first_letter)
        await assistant.post(**asks("Which two roses may not freeze, HL-20931?"))
        assert result(await assistant.post(**asks("Which 2 roses mustn't freeze, HL-20931?"))) == "semantic"
        assert result(await assistant.post(**other)) == "miss"

    asyncio.run(run())


def test_an_answer_of_another_route_is_never_found_by_likeness() -> None:
    async def run() -> None:
        assistant = ScriptedAssistant(
            [refuses(500, "engine_error"), answers("Better now.")], cache=SEMANTIC, embed=by_first_letter
        )
        await assistant.post(**asks("Where is it?"))
        assert content(await assistant.post(**asks("Where has it gone?"))) == "Better now."

    asyncio.run(run())


def test_an_embedder_that_fails_fails_no_turn() -> None:
    async def fails(_: Sequence[str]) -> Vectors:
        raise RuntimeError("the embedder is on fire")

    async def run() -> None:
        assistant = cached_assistant(cache=SEMANTIC, embed=fails)
        assert [result(await assistant.post()) for _ in range(2)] == ["miss", "hit"]

    asyncio.run(run())


def test_likeness_needs_an_embedder() -> None:
    with pytest.raises(GraftError, match="needs an embedding model"):
        AnswerCache(SEMANTIC, RecordedMetrics(), Clock(), None)


def test_the_oldest_question_makes_room() -> None:
    async def run() -> None:
        index = SemanticIndex[str](by_first_letter, 0.9, 3)
        for letter in "abcd":
            index.add(await index.question("here", letter), letter)
        found = [list(index.nearest(await index.question("here", letter))) for letter in "abcd"]
        assert found == [[], ["b"], ["c"], ["d"]]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is HL-20931?", "where's hl20931"),
        ("I want two", "i want 2, please"),
        ("I don't like it", "I do not like it"),
        ("It isn\N{RIGHT SINGLE QUOTATION MARK}t here", "it isnt here"),
    ],
)
def test_spelling_is_no_fact(one: str, other: str) -> None:
    assert question_facts(one) == question_facts(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Order HL-20931", "Order HL-20913"),
        ("2 roses and 3 tulips", "3 roses and 2 tulips"),
        ("It costs 1.50", "It costs 15"),
        ("Half a pallet", "A pallet"),
        ("Can I return it?", "Can't I return it?"),
        ("with delivery", "without delivery"),
        ("I never got it", "I got it"),
    ],
)
def test_numbers_identifiers_and_negation_are_facts(one: str, other: str) -> None:
    assert question_facts(one) != question_facts(other)


def test_the_key_is_who_what_and_by_whom() -> None:
    key = CacheKey("shop", NEW, "question")
    others = {replace(key, **{field.name: "other"}) for field in fields(CacheKey)}
    assert len(others | {key}) == len(fields(CacheKey)) + 1
