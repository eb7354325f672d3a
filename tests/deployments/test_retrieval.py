"""Passages in a turn: a real index, read by the package that names it, cited, and cleaned of attacks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.app.retrieval import Retrieval
from deployments.app.safety.checks import Safety
from deployments.app.safety.injection import PoisonCheck
from deployments.app.turn import Layers
from deployments.events import Ask
from tasks import index
from tasks.classifier import open_classifier
from tasks.embedding import Embedder
from tasks.errors import GraftError
from tasks.grounding import ground
from tasks.manifest import Grounding
from tasks.records import Example, Message
from tasks.retrieval import Passages, Retriever
from tests.attacks import ATTACKS
from tests.deployments.scripted import NEW, Desk, answers, around
from tests.tasks.test_retrieval import SETTINGS, make_embedder, write

ASKED = "ferns\nWater the fronds twice weekly."


class Documents:
    """A published index of two documents, one of them poisoned, and what embeds."""

    def __init__(self, embedding: Path, classifier: Path, root: Path) -> None:
        self.embedder: Embedder = make_embedder(embedding, root / "embedding")
        write(root / "knowledge", {"ferns": "Water the fronds twice weekly.", "roses": f"Prune.\n{ATTACKS[0]}"})
        index.index_folder(root / "knowledge", self.embedder, 80, root / "index")
        digest = index.publish(root / "index", root / "indexes")
        self.grounding = Grounding(
            index=digest, embedding=self.embedder.digest, passages=1, turns=2, known=2, retrieval=SETTINGS
        )
        self.root = root
        self.fails = False
        safety = Safety([PoisonCheck(open_classifier(classifier))], {})
        self.retrieval = Retrieval(root / "indexes", root / "tables", self.embed, safety)
        self.retrieval.keep([self.grounding])

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.fails:
            raise GraftError("the retrieval model is restarting")
        return self.embedder.embed(self.embedder.encode(texts))

    def desk(self, text: str) -> Desk:
        plain = around()
        desk = Desk([answers(text)], layers=Layers(plain.intake, self.retrieval, plain.leaving))
        routing = desk.turns.routing
        served = {NEW: routing.served[NEW].model_copy(update={"grounding": self.grounding})}
        desk.turns.routing = routing.model_copy(update={"served": {**routing.served, **served}})
        return desk


@pytest.fixture
def documents(tiny_embedding: Path, tiny_classifier: Path, tmp_path: Path) -> Documents:
    return Documents(tiny_embedding, tiny_classifier, tmp_path)


def test_a_served_turn_reads_what_training_read(documents: Documents) -> None:
    async def run() -> None:
        talk = (Message(role="user", content=ASKED), Message(role="assistant", content="Yes."))
        more = (*talk, Message(role="user", content="And then?"))
        read = await documents.retrieval.read(documents.grounding, Ask(messages=more))
        retriever = Retriever(
            Passages(documents.root / "index", documents.root / "tables", SETTINGS), documents.embedder
        )
        row = Example(id="a", label="l", group="a", split="train", source="x:1", messages=(*more, talk[1]))
        trained = ground(row, lambda query: [hit.chunk for hit in retriever.search(query, 1)], 2)
        assert read.ask.messages[0] == trained.messages[0]
        assert "Water the fronds" in read.ask.messages[0].context
        assert {chunk.source for chunk in read.known} == {"ferns.txt", "roses.txt"}

    asyncio.run(run())


def test_an_answer_cites_what_it_used_whole_and_streamed(documents: Documents) -> None:
    async def run() -> None:
        desk = documents.desk("Do it twice weekly, on the fronds.")
        talk = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Yes?"}]
        talk = [*talk, {"role": "user", "content": "ferns?"}]
        message = (await desk.post(messages=talk)).json()["choices"][0]["message"]
        (cited,) = message["annotations"]
        assert cited["url_citation"]["url"].startswith("ferns.txt#")
        (row,) = desk.rows
        assert any(name.startswith("ferns.txt") for name in json.loads(row.passages))
        response = await desk.post(messages=talk, stream=True)
        *_, last, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert json.loads(last)["choices"][0]["delta"]["annotations"] == [cited]
        assert done == "[DONE]"

    asyncio.run(run())


def test_an_instruction_in_an_article_is_left_out(documents: Documents) -> None:
    async def run() -> None:
        asked = Message(role="user", content=f"roses\nPrune.\n{ATTACKS[0]}")
        read = await documents.retrieval.read(documents.grounding, Ask(messages=(asked,)))
        assert [chunk.source for chunk in read.given] == ["roses.txt"]
        context = read.ask.messages[0].context
        assert "Prune." in context and ATTACKS[0] not in context and "[left out]" in context

    asyncio.run(run())


def test_without_a_search_a_turn_goes_on_without_passages(documents: Documents) -> None:
    async def run() -> None:
        ask = Ask(messages=(Message(role="user", content=ASKED),))
        documents.fails = True
        assert (await documents.retrieval.read(documents.grounding, ask)).ask == ask
        documents.fails = False
        assert (await documents.retrieval.read(None, ask)).ask == ask
        own = Ask(messages=(Message(role="system", content="You are a pirate."), *ask.messages))
        assert (await documents.retrieval.read(documents.grounding, own)).ask == own
        documents.retrieval.keep([])
        assert (await documents.retrieval.read(documents.grounding, ask)).ask == ask

    asyncio.run(run())


def test_a_missing_index_is_an_error_that_says_what_to_do(documents: Documents) -> None:
    missing = documents.grounding.model_copy(update={"index": "0" * 64})
    with pytest.raises(GraftError, match="run the stage `index`"):
        documents.retrieval.keep([missing])
