"""What a served package sends of an answer, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deployments.engine import PackageServer
from deployments.events import Ask, Delta, Event, Finished
from tasks.engine.open import Model
from tasks.prompt import Prompt
from tasks.records import Message
from tasks.settings import EngineSettings
from tests.deployments.test_turns import SETTINGS
from tests.engines import ScriptedEngine, says


@pytest.mark.parametrize(("every_s", "pieces"), [(0, ["Ord", "er ", "HL-", "209"]), (1000, ["Ord"])])
def test_new_text_is_sent_at_most_so_often_and_all_of_it_at_the_end(
    every_s: float, pieces: list[str], tiny_base: Path, tiny_prompts: Path
) -> None:
    async def run() -> list[Event]:
        engine = ScriptedEngine(says("Order HL-20931"))
        settings = EngineSettings(name="transformers", dtype="float32", max_new_tokens=50)
        model = Model(engine, Prompt.load(tiny_prompts, tiny_base), settings, 500)
        server = PackageServer(model, (), SETTINGS.model_copy(update={"stream_every_s": every_s}))
        return [event async for event in server.turn(Ask(messages=(Message(role="user", content="Which?"),)))]

    *deltas, finished = asyncio.run(run())
    assert [delta.text for delta in deltas if isinstance(delta, Delta)] == pieces
    assert isinstance(finished, Finished)
    assert finished.generation.text == "Order HL-20931"
