"""The service against its own OpenAPI document: requests generated from it, and no response that it does not describe.

Also covers `deployments/app/openai/requests.py`, `deployments/app/openai/responses.py` and
`deployments/app/routes.py`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, checks

from deployments.app.openai.responses import ChatChunk, Completion
from tests.deployments.app.test_embeddings import with_embedder
from tests.deployments.app.test_turn import ASK, CALL, ReplicaAssistant
from tests.support.scripted_engine import ScriptedEngine, says

BOUNDED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
STREAMED = ("/v1/chat/completions", "/v1/completions")
EXCLUDED_CHECKS = [
    checks.positive_data_acceptance,  # a body may fit its schema and yet be too long, or contradict itself
]


@pytest.fixture(scope="module")
def document(
    tiny_base: Path, tiny_prompts: Path, tiny_embedding: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    assistant = ReplicaAssistant(ScriptedEngine(says(f"Wait. {CALL}")), tiny_base, tiny_prompts)
    with_embedder(assistant, tiny_embedding, tmp_path_factory.mktemp("served"))
    return schemathesis.openapi.from_asgi("/openapi.json", assistant.app)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_what_the_document_allows_is_answered_as_it_says(mode: GenerationMode, document: Any) -> None:
    tried = []
    for operation in document.get_all_operations():

        @BOUNDED
        @given(case=operation.ok().as_strategy(generation_mode=mode))
        def holds(case: schemathesis.Case) -> None:
            if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                # Or all of them would be 404.
                case.body["model"] = "tiny" if case.path == "/v1/embeddings" else "production"
            case.call_and_validate(excluded_checks=EXCLUDED_CHECKS)
            if mode is GenerationMode.POSITIVE and case.path in STREAMED:
                case.body = {**case.body, "stream": True}
                case.call_and_validate(excluded_checks=EXCLUDED_CHECKS)

        if mode is GenerationMode.POSITIVE or operation.ok().body:
            holds()
            tried.append(operation.ok().path)
    assert "/v1/chat/completions" in tried


@pytest.mark.parametrize(
    ("path", "options", "event"),
    [
        ("/chat/completions", {"messages": ASK, "logprobs": True}, ChatChunk),
        ("/completions", {"prompt": "a"}, Completion),
    ],
)
def test_the_events_of_a_stream_are_as_described(
    path: str, options: dict[str, Any], event: Any, tiny_base: Path, tiny_prompts: Path
) -> None:
    async def run() -> None:
        assistant = ReplicaAssistant(ScriptedEngine(says(f"Wait. {CALL}")), tiny_base, tiny_prompts)
        body = {"model": "production", "stream": True, "stream_options": {"include_usage": True}, **options}
        async with assistant.http() as http:
            answer = await http.post(f"/v1{path}", json=body)
        *events, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
        assert last == "[DONE]"
        assert [event.model_validate(json.loads(line), strict=False) for line in events][-1].usage is not None

    asyncio.run(run())
