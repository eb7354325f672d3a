"""The engine replica of a served package: the deltas that it sends, and when; and the packages that it admits."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from deployments.core.messages import Delta, Event, TurnEnd, TurnRequest
from deployments.core.settings import SERVE_YAML, load_serve_settings
from deployments.replicas.engine import EngineReplica, PackageServer
from deployments.serve import rollout
from deployments.serve.applications import EngineArguments, engine
from tasks.core.errors import GraftError
from tasks.core.paths import REGISTRY
from tasks.core.records import Message
from tasks.core.settings import AdmissionSettings, EngineSettings
from tasks.engine.loading import Model
from tasks.prompt.encoding import Prompt
from tasks.registry.registry import REGISTRY_YAML, LocalRegistry
from tests.conftest import ROOT
from tests.deployments.app.test_turn import SETTINGS
from tests.support.ray_stack import make_package
from tests.support.scripted_engine import ScriptedEngine, says


@pytest.mark.parametrize(("every_s", "texts"), [(0, ["Ord", "er ", "HL-", "209"]), (1000, ["Ord"])])
def test_new_text_is_sent_at_most_so_often_and_all_of_it_at_the_end(
    every_s: float, texts: list[str], tiny_base: Path, tiny_prompts: Path
) -> None:
    async def run() -> list[Event]:
        scripted = ScriptedEngine(says("Order HL-20931"))
        settings = EngineSettings(name="transformers", dtype="float32", max_new_tokens=50)
        model = Model(scripted, Prompt.load(tiny_prompts, tiny_base), settings, 500)
        server = PackageServer(model, (), SETTINGS.model_copy(update={"stream_every_s": every_s}))
        return [event async for event in server.turn(TurnRequest(messages=(Message(role="user", content="Which?"),)))]

    *deltas, finished = asyncio.run(run())
    assert [delta.text for delta in deltas if isinstance(delta, Delta)] == texts
    assert isinstance(finished, TurnEnd)
    assert finished.generation.text == "Order HL-20931"


def test_replicas_get_the_servers_own_lists() -> None:
    admission = AdmissionSettings(licenses=("MIT",), engines=("vllm",))
    config = rollout._engine_config(load_serve_settings(ROOT / SERVE_YAML), admission, "ab" * 32, "engine-x")
    sent = json.loads(json.dumps(config["args"]))
    assert EngineArguments.model_validate(sent).admission == admission
    assert engine(sent)._bound_deployment.init_args[-1] == admission.model_dump()


def test_a_replica_does_not_open_what_the_server_does_not_admit(
    tiny_base: Path, tiny_prompts: Path, tmp_path: Path
) -> None:
    package = make_package(tmp_path / "package", 1, tiny_base, tiny_prompts)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "deployments").mkdir()
    shutil.copy(ROOT / REGISTRY_YAML, tmp_path / "deployments")
    digest = LocalRegistry(tmp_path / REGISTRY).publish(package, tiny_base, tmp_path / "evaluation")
    admission = {"licenses": ["MIT"], "engines": ["transformers"]}
    with pytest.raises(GraftError, match=r"the license of its base is 'Apache-2\.0', which this server does not serve"):
        EngineReplica(digest, str(tmp_path), SETTINGS.model_dump(), admission)
