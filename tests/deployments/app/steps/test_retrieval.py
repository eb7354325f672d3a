"""Retrieval in a turn: passages of a real index, read by the package that names it, cited, and cleaned of attacks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.app.guardrails.checks import Guardrails
from deployments.app.guardrails.prompt_injection import IndirectInjectionCheck
from deployments.app.steps.retrieval import FoundPassages, PassageSearch
from deployments.core.messages import TurnRequest
from deployments.core.settings import CacheSettings
from tasks import index
from tasks.core.errors import GraftError
from tasks.core.records import Example, Message, ToolCall
from tasks.core.settings import load_settings
from tasks.grounding import add_context
from tasks.model_package.manifest import Grounding
from tasks.retrieval import index_files
from tasks.retrieval.embedder import Embedder
from tasks.retrieval.lookup_tool import read_message, with_context
from tasks.retrieval.search import PassageIndex, Retriever
from tasks.safety.injection_classifier import open_classifier
from tasks.tools.domain_interface import ToolAnswer
from tests.conftest import ROOT
from tests.deployments.app.steps.test_tool_loop import calls
from tests.support.assistant_in_process import NEW, NO_CACHE, Script, ScriptedAssistant, answers, guards
from tests.support.attack_texts import ATTACKS
from tests.tasks.retrieval.test_search import SETTINGS, make_embedder, write


def no_tool(call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
    raise AssertionError(f"{call.name} was run for {customer} under {key}")


ASKED = "ferns\nWater the fronds twice weekly."


class Documents:
    """A published index of two documents, one of them poisoned, and the retrieval model."""

    def __init__(self, embedding: Path, classifier: Path, root: Path) -> None:
        self.embedder: Embedder = make_embedder(embedding, root / "embedding")
        write(root / "knowledge", {"ferns": "Water the fronds twice weekly.", "roses": f"Prune.\n{ATTACKS[0]}"})
        index.index_folder(root / "knowledge", self.embedder, 80, root / "index")
        digest = index_files.publish(root / "index", root / "indexes")
        self.grounding = Grounding(
            index=digest, embedding=self.embedder.digest, passages=1, turns=2, known=2, retrieval=SETTINGS
        )
        self.root = root
        self.fails = False
        self.embedded = 0
        self.may_embed = asyncio.Event()
        self.may_embed.set()
        safety = Guardrails([IndirectInjectionCheck(open_classifier(classifier))], {})
        self.retrieval = PassageSearch(root / "indexes", root / "tables", self.embed, safety)
        self.retrieval.keep([self.grounding])

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.embedded += 1
        await self.may_embed.wait()
        if self.fails:
            raise GraftError("the retrieval model is restarting")
        return self.embedder.embed(self.embedder.encode(texts))

    async def read(self, ask: TurnRequest) -> FoundPassages:
        return await self.retrieval.begin(self.grounding, ask).wait()

    def assistant(self, *scripts: Script, cache: CacheSettings = NO_CACHE) -> ScriptedAssistant:
        tools = load_settings(ROOT / "params.yaml").tools
        around = replace(guards(), passage_search=self.retrieval)
        assistant = ScriptedAssistant(list(scripts), around=around, run_tool=no_tool, tools=tools, cache=cache)
        routing = assistant.turns.routing
        served = {NEW: routing.served[NEW].model_copy(update={"grounding": self.grounding})}
        assistant.turns.routing = routing.model_copy(update={"served": {**routing.served, **served}})
        return assistant


@pytest.fixture
def documents(tiny_embedding: Path, tiny_classifier: Path, tmp_path: Path) -> Documents:
    return Documents(tiny_embedding, tiny_classifier, tmp_path)


def test_a_served_turn_finds_what_training_found(documents: Documents) -> None:
    async def run() -> None:
        talk = (Message(role="user", content="Hello"), Message(role="assistant", content="Yes?"))
        more = (*talk, Message(role="user", content=ASKED))
        found = await documents.read(TurnRequest(messages=more))
        tables = documents.root / "tables"
        retriever = Retriever(PassageIndex(documents.root / "index", tables, SETTINGS), documents.embedder)
        row = Example(id="a", label="l", group="a", split="train", source="x:1", messages=(*more, talk[1]))
        trained = add_context(row, lambda query: [hit.chunk for hit in retriever.search(query, 1)])
        served = with_context(more, found.shown)
        assert served == trained.messages[:3]
        assert "Water the fronds" in read_message(served).content
        assert {chunk.source for chunk in found.grounding} == {"ferns.txt", "roses.txt"}

    asyncio.run(run())


LOOKS = calls("look_up")


def test_what_is_looked_up_is_read_and_cited_whole_and_streamed(documents: Documents) -> None:
    async def run() -> None:
        assistant = documents.assistant(LOOKS, answers("Twice weekly, some water for the fronds."))
        message = (await assistant.post(messages=talk)).json()["choices"][0]["message"]
        assert message["content"] == "Twice weekly, some water for the fronds."
        (cited,) = message["annotations"]
        assert cited["url_citation"]["url"].startswith("ferns.txt#")
        assert "Water the fronds" in assistant.backend.requests[1].messages[-1].content
        (row,) = assistant.rows
        assert any(name.startswith("ferns.txt") for name in json.loads(row.passages))
        assert [step["outcome"] for step in json.loads(row.steps)] == ["ok"]
        assistant = documents.assistant(LOOKS, answers("Twice weekly, some water for the fronds."))
        response = await assistant.post(messages=talk, stream=True)
        *_, last, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert json.loads(last)["choices"][0]["delta"]["annotations"] == [cited]
        assert done == "[DONE]"

    talk = [{"role": "user", "content": "ferns"}]
    asyncio.run(run())


def test_who_looked_nothing_up_cites_nothing(documents: Documents) -> None:
    async def run() -> None:
        assistant = documents.assistant(answers("Twice weekly, some water for the fronds."))
        message = (await assistant.post(messages=[{"role": "user", "content": "ferns"}])).json()
        assert "annotations" not in message["choices"][0]["message"]

    asyncio.run(run())


def test_an_instruction_in_an_article_is_left_out(documents: Documents) -> None:
    async def run() -> None:
        question = Message(role="user", content=f"roses\nPrune.\n{ATTACKS[0]}")
        found = await documents.read(TurnRequest(messages=(question,)))
        (chunk,) = found.shown
        context = chunk.text
        assert chunk.source == "roses.txt"
        assert "Prune." in context and ATTACKS[0] not in context and "[left out]" in context

    asyncio.run(run())


def test_without_a_search_a_turn_goes_on_without_passages(documents: Documents) -> None:
    async def run() -> None:
        ask = TurnRequest(messages=(Message(role="user", content=ASKED),))
        documents.fails = True
        assert await documents.read(ask) == FoundPassages(failed=True)
        documents.fails = False
        assert await documents.retrieval.begin(None, ask).wait() == FoundPassages()
        own = TurnRequest(messages=(Message(role="system", content="You are a pirate."), *ask.messages))
        assert await documents.read(own) == FoundPassages()
        documents.retrieval.keep([])
        assert await documents.read(ask) == FoundPassages()

    asyncio.run(run())


def test_the_model_does_not_wait_for_the_search_and_its_words_do(documents: Documents) -> None:
    async def run() -> None:
        assistant = documents.assistant(answers("Twice weekly, some water for the fronds."))
        documents.may_embed.clear()
        turn = asyncio.create_task(assistant.post(messages=[{"role": "user", "content": "ferns"}]))
        async with asyncio.timeout(10):
            while not assistant.backend.requests:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert not turn.done()
        documents.may_embed.set()
        assert (await turn).status_code == 200
        assert json.loads(assistant.rows[0].passages)

    asyncio.run(run())


def test_an_answer_that_is_kept_is_not_searched_for_and_one_without_its_search_is_not_kept(
    documents: Documents,
) -> None:
    async def run() -> None:
        cache = CacheSettings(mb=1, max_age_s=60, semantic=False, threshold=1, entries=1)
        assistant = documents.assistant(answers("Twice weekly."), cache=cache)
        documents.fails = True
        for searched in (1, 2, 2):
            await assistant.post(messages=[{"role": "user", "content": "ferns"}])
            assert documents.embedded == searched
            documents.fails = False
        assert [row.cache for row in assistant.rows] == ["miss", "miss", "hit"]

    asyncio.run(run())


def test_a_missing_index_is_an_error_that_says_what_to_do(documents: Documents) -> None:
    missing = documents.grounding.model_copy(update={"index": "0" * 64})
    with pytest.raises(GraftError, match="run the stage `index`"):
        documents.retrieval.keep([missing])
