"""Tests of serving as clients use it: the real `openai` client over HTTP, on the real Ray Serve.

Also covers `deployments/core/metrics.py`, `deployments/serve/applications.py`, `deployments/serve/assistant.py`,
`deployments/serve/backend.py`, `deployments/serve/ray_metrics.py` and `deployments/serve/ray_start.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pandas as pd
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from deployments.core.loopback import LOOPBACK
from deployments.serve import rollout
from deployments.serve.ray_head import temp_dir
from deployments.serve.ray_token import auth_headers
from tasks.core.errors import GraftError
from tasks.core.paths import BUILT_EMBEDDING
from tasks.core.settings import EmbeddingSettings
from tasks.embedding import bring_in
from tasks.monitoring.telemetry_store import read_window
from tasks.registry.registry import LocalRegistry
from tests.conftest import embedding_source
from tests.support.ray_stack import MAX_PROMPT_TOKENS, RayStack, make_package, seal

ASK = [{"role": "user", "content": "Where is my order HL-20931?"}]
SHORT = {"messages": ASK, "max_tokens": 12}
LONG = {"messages": ASK, "max_tokens": 400}
FRESH = {"Cache-Control": "no-cache"}
"""Header that bypasses the cache; otherwise most of these requests would reach no engine."""


def rows() -> pd.DataFrame:
    now = datetime.now(UTC)
    return read_window(now - timedelta(hours=1), now + timedelta(minutes=1))


def row(trace_id: str) -> pd.Series:
    frame = rows()
    (index,) = frame.index[frame["trace_id"] == trace_id]
    return frame.loc[index]


def shadows() -> pd.DataFrame:
    seen = rows()
    return seen[seen["operation"] == "shadow"]


def newest() -> pd.Series:
    return rows().iloc[-1]


@pytest.fixture(scope="module")
def first(ray_stack: RayStack) -> str:
    """The digest in production."""
    digest = ray_stack.publish(1)
    rollout.deploy(digest)
    rollout.promote(digest)
    return digest


@pytest.fixture
def client(ray_stack: RayStack) -> Iterator[openai.OpenAI]:
    assert rollout.base_url() == f"http://127.0.0.1:{ray_stack.settings.http.port}/v1"
    with openai.OpenAI(base_url=rollout.base_url(), api_key="none", max_retries=0, default_headers=FRESH) as client:
        yield client


@pytest.mark.usefixtures("ray_stack")
def test_before_a_promotion_it_says_so(client: openai.OpenAI) -> None:
    health = httpx.get(rollout.base_url().replace("/v1", "/healthz"))
    assert (health.status_code, health.json()["production"]) == (503, None)
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(model="production", **SHORT)
    assert error.value.code == "no_production_model"
    assert "retry-after" in error.value.response.headers
    assert (newest()["status"], newest()["error"]) == (503, "no_production_model")


def test_a_candidate_answers_by_its_digest_before_it_is_promoted(ray_stack: RayStack, client: openai.OpenAI) -> None:
    digest = ray_stack.publish(1)
    rollout.deploy(digest)
    rollout.deploy(digest)
    assert rollout.served().production is None
    assert client.chat.completions.create(model=digest, **SHORT).model == digest


def test_an_answer_has_openais_shape_and_a_row(client: openai.OpenAI, first: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model="production", **SHORT)
    answer = raw.parse()
    assert answer.model == first
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    seen = row(raw.headers["x-graft-trace-id"])
    assert (seen["digest"], seen["status"], seen["error"], seen["stream"]) == (first, 200, "", False)
    assert seen["prompt_tokens"] == answer.usage.prompt_tokens
    assert seen["user_chars"] == len(ASK[0]["content"])
    assert 0 < seen["first_token_ms"] <= seen["latency_ms"]


def test_greedy_answers_repeat_and_seeded_ones_too(client: openai.OpenAI, first: str) -> None:
    def say(**options: object) -> str:
        return client.chat.completions.create(model=first, **SHORT, **options).choices[0].message.content

    assert say() == say(temperature=0)
    assert say(temperature=1.5, seed=3) == say(temperature=1.5, seed=3)
    assert len({say(temperature=2, seed=seed) for seed in range(4)}) > 1


def test_a_stream_adds_up_to_the_whole_answer(client: openai.OpenAI, first: str) -> None:
    whole = client.chat.completions.create(model="tiny-desk", **SHORT)
    chunks = list(
        client.chat.completions.create(model="production", **SHORT, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert {c.model for c in chunks} == {first}
    assert bool(newest()["stream"])


def test_without_being_asked_a_stream_has_no_usage(client: openai.OpenAI, first: str) -> None:
    chunks = list(client.chat.completions.create(model=first, **SHORT, stream=True))
    assert all(c.usage is None and c.choices for c in chunks)


def test_the_client_may_send_nulls_tools_and_harmless_fields(client: openai.OpenAI, first: str) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "description": "x"}}
    answer = client.chat.completions.create(
        model=first,
        messages=[
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "nothing"},
        ],
        tools=[tool],
        tool_choice="auto",
        n=None,
        stop=None,
        user="someone",
        max_completion_tokens=2,
        top_p=0,
        temperature=0.5,
    )
    assert answer.usage.completion_tokens <= 2


def test_a_repeated_question_is_answered_from_memory(client: openai.OpenAI, first: str) -> None:
    create = client.with_options(default_headers={"Cache-Control": ""}).chat.completions.with_raw_response.create
    answers = [create(model="production", **SHORT, stop="a word of this test") for _ in range(2)]
    assert [raw.headers["x-graft-cache"] for raw in answers] == ["miss", "hit"]
    assert [raw.headers["x-graft-route"] for raw in answers] == ["production"] * 2
    before, after = (raw.parse() for raw in answers)
    assert (after.model, after.choices) == (first, before.choices)
    assert after.usage.prompt_tokens_details.cached_tokens == after.usage.prompt_tokens
    seen = row(answers[1].headers["x-graft-trace-id"])
    assert (seen["route"], seen["cache"]) == ("production", "hit")


def test_what_the_engine_kept_of_a_prompt_is_in_the_usage(client: openai.OpenAI, first: str) -> None:
    create = client.chat.completions.with_raw_response.create
    raw = [create(model=first, **SHORT, temperature=1) for _ in range(2)][-1]
    usage = raw.parse().usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
    assert row(raw.headers["x-graft-trace-id"])["cached_tokens"] == usage.prompt_tokens_details.cached_tokens


def test_counters_reach_rays_metrics(ray_stack: RayStack, client: openai.OpenAI, first: str) -> None:
    client.chat.completions.create(model=first, **SHORT)
    (discovery,) = temp_dir(ray_stack.root).glob("session_latest/prom_metrics_service_discovery.json")
    targets = json.loads(discovery.read_text(encoding="utf-8"))[0]["targets"]
    names = {"graft_routes", "graft_cache_lookups", "graft_prompt_tokens"}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text = "".join(httpx.get(f"http://{target}/metrics").text for target in targets)
        if all(name in text for name in names):
            return
        time.sleep(0.5)
    pytest.fail(f"{names} are not among Ray's metrics")


def test_models_and_health(client: openai.OpenAI, first: str) -> None:
    assert first in [model.id for model in client.models.list()]
    assert client.models.retrieve("production").id == first
    health = httpx.get(rollout.base_url().replace("/v1", "/healthz"))
    assert (health.status_code, health.json()["production"]) == (200, first)


def test_the_retrieval_model_that_was_built_is_served_beside(
    client: openai.OpenAI, first: str, tiny_embedding: Path
) -> None:
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="tiny", input="a rose")
    settings = EmbeddingSettings(name="tiny", license="MIT", max_length=20, **embedding_source(tiny_embedding))
    bring_in(settings, BUILT_EMBEDDING)
    rollout.redeploy(first)
    shutil.rmtree(BUILT_EMBEDDING)  # the served model is a copy
    answer = client.embeddings.create(model="tiny", input=["a rose", "an elm"])
    assert [len(item.embedding) for item in answer.data] == [8, 8]
    assert [model.id for model in client.models.list()] == [first, answer.model]
    seen = newest()
    assert (seen["operation"], seen["digest"], seen["prompt_tokens"]) == ("embeddings", answer.model, 12)
    assert client.completions.create(model=first, prompt="a", max_tokens=2).object == "text_completion"


def test_everything_listens_on_loopback_only(ray_stack: RayStack) -> None:
    processes = psutil.Process(ray_stack.head.pid).children(recursive=True)
    sockets = [s for p in processes for s in p.net_connections("inet") if s.status == psutil.CONN_LISTEN]
    assert ray_stack.settings.http.port in {s.laddr.port for s in sockets}
    assert {s.laddr.ip.removeprefix("::ffff:") for s in sockets} <= {"127.0.0.1", "::1"}


def test_without_the_token_ray_answers_no_request(ray_stack: RayStack) -> None:
    """Though the head's home folder has another Ray's token, which Ray would take where its mode is not set."""
    ray = ray_stack.settings.ray
    url = f"http://{ray.host}:{ray.dashboard_port}"
    job = {"entrypoint": "touch /tmp/owned"}
    other = {"Authorization": "Bearer the token of another Ray, long enough to be taken"}
    for headers, status in (({}, 401), (other, 403)):
        for path in ("/api/version", "/api/serve/applications/", "/nodes?view=summary"):
            assert httpx.get(url + path, headers=headers).status_code == status, path
        assert httpx.post(f"{url}/api/jobs/", json=job, headers=headers).status_code == status
    assert httpx.get(f"{url}/api/version", headers=auth_headers(ray)).is_success
    program = f"import ray; ray.init('{ray.host}:{ray.gcs_port}', log_to_driver=False); print('joined')"
    environment = {**os.environ, **LOOPBACK, "RAY_AUTH_MODE": "disabled"}
    joined = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert joined.returncode != 0
    assert "joined" not in joined.stdout
    commands = [" ".join(p.cmdline()) for p in psutil.Process(ray_stack.head.pid).children(recursive=True)]
    assert not [command for command in commands if "ray.util.client.server" in command]


def test_a_web_page_and_a_foreign_name_get_no_answer(client: openai.OpenAI, first: str) -> None:
    url = f"{rollout.base_url()}/chat/completions"
    body = {"model": first, **SHORT}
    assert httpx.post(url, json=body, headers={"origin": "https://evil.example"}).status_code == 403
    assert httpx.post(url, json=body, headers={"host": "evil.example"}).status_code == 403
    assert httpx.post(url, content=json.dumps(body), headers={"content-type": "text/plain"}).status_code == 415
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    preflight = httpx.options(url, headers=asked)
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers
    assert client.chat.completions.create(**body).model == first


def test_an_unknown_model_is_404(client: openai.OpenAI, first: str) -> None:
    assert first in rollout.served().served
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4o", **SHORT)
    assert error.value.code == "model_not_found"
    seen = row(error.value.response.headers["x-graft-trace-id"])
    assert (seen["status"], seen["error"], seen["digest"]) == (404, "model_not_found", "")
    assert pd.isna(seen["prompt_tokens"])


def test_a_bad_parameter_is_400_and_named(client: openai.OpenAI, first: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=first, **SHORT, temperature=3)
    assert (error.value.param, error.value.type) == ("temperature", "invalid_request_error")
    assert row(error.value.response.headers["x-graft-trace-id"])["status"] == 400


def test_a_prompt_that_is_too_long_is_400(client: openai.OpenAI, first: str) -> None:
    long = [{"role": "user", "content": "a" * MAX_PROMPT_TOKENS}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model=first, messages=long, stream=stream)
        assert error.value.code == "context_length_exceeded"
        assert row(error.value.response.headers["x-graft-trace-id"])["error"] == "context_length_exceeded"


@pytest.mark.usefixtures("ray_stack")
def test_a_wrong_path_has_openais_shape() -> None:
    answer = httpx.get(rollout.base_url() + "/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def wait_for_row(before: int) -> pd.Series:
    deadline = time.monotonic() + 60
    while len(rows()) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(rows()) == before + 1
    return newest()


def test_a_client_that_hangs_up_leaves_a_row(client: openai.OpenAI, first: str) -> None:
    before = len(rows())
    with client.chat.completions.create(model=first, **LONG, stream=True) as stream:
        next(iter(stream))
    seen = wait_for_row(before)
    assert (seen["status"], seen["error"], seen["digest"], seen["stream"]) == (499, "client_closed", first, True)
    assert 0 < seen["completion_tokens"] < 400 and seen["prompt_tokens"] > 0


def test_a_client_that_loses_patience_leaves_a_row(client: openai.OpenAI, first: str) -> None:
    before = len(rows())
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).chat.completions.create(model=first, **LONG)
    seen = wait_for_row(before)
    assert (seen["status"], seen["error"], seen["stream"]) == (499, "client_closed", False)


def test_a_package_that_is_not_what_was_published_is_not_deployed(ray_stack: RayStack, first: str) -> None:
    digest = ray_stack.publish(3)
    path = LocalRegistry().package(digest) / "prompt/system.txt"
    path.write_text("Say yes to everything.", encoding="utf-8")
    with pytest.raises(GraftError, match=r"system\.txt: changed"):
        rollout.deploy(digest)
    assert digest not in rollout.served().served
    assert rollout.served().production == first


def test_a_package_that_this_server_does_not_admit_is_not_deployed(ray_stack: RayStack, first: str) -> None:
    """The package is as published, but the server's list of licenses was shortened since."""
    path, digest = ray_stack.root / "params.yaml", ray_stack.publish(6)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    shorter = {**content, "admission": {**content["admission"], "licenses": ["MIT"]}}
    path.write_text(yaml.safe_dump(shorter), encoding="utf-8")
    try:
        with pytest.raises(GraftError, match=r"the license of its base is 'Apache-2\.0', which this server does not"):
            rollout.deploy(digest)
    finally:
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert digest not in rollout.served().served
    assert rollout.served().production == first


def garbage(weights: Path) -> None:
    weights.write_bytes(b"not weights")


def zeros(weights: Path) -> None:
    save_file({name: torch.zeros_like(value) for name, value in load_file(weights).items()}, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(garbage, r"did not come up: .*[Ss]afetensor"), (zeros, "did not come up: .*effect probe: 3 of 3 answers")],
)
def test_a_deploy_that_fails_leaves_production_serving(
    ray_stack: RayStack,
    client: openai.OpenAI,
    first: str,
    tiny_base: Path,
    tiny_prompts: Path,
    spoil: Any,
    error: str,
) -> None:
    """The package is byte for byte as published, but is no model, or does not differ from its base."""
    broken = make_package(ray_stack.root / f"package-{spoil.__name__}", 4, tiny_base, tiny_prompts)
    spoil(broken / "adapter/adapter_model.safetensors")
    seal(broken, tiny_base)
    digest = LocalRegistry().publish(broken, tiny_base, ray_stack.root / "evaluation")
    with pytest.raises(GraftError, match=error):
        rollout.deploy(digest)
    assert digest not in rollout.served().served
    assert client.chat.completions.create(model="production", **SHORT).model == first


@pytest.mark.usefixtures("ray_stack")
def test_what_is_not_deployed_can_be_neither_promoted_nor_tried(first: str) -> None:
    for trial in (rollout.shadow, lambda digest: rollout.canary(digest, 5)):
        with pytest.raises(GraftError, match="is not served"):
            trial("f" * 64)
    with pytest.raises(GraftError, match="not deployed"):
        rollout.promote("f" * 64)
    assert rollout.served().production == first


@pytest.mark.usefixtures("ray_stack")
def test_restoring_what_serves_changes_nothing(client: openai.OpenAI, first: str) -> None:
    rollout.redeploy(first)
    assert client.chat.completions.create(model="production", **SHORT).model == first


def test_no_step_of_a_rollout_loses_a_request(ray_stack: RayStack, first: str) -> None:
    second = ray_stack.publish(2)
    assert second != first
    seen: list[str] = []
    stop = threading.Event()

    def keep_asking(number: int) -> None:
        with openai.OpenAI(base_url=rollout.base_url(), api_key="none", max_retries=0, default_headers=FRESH) as client:
            while not stop.wait(0.1):
                body = {"model": "production", "user": f"C-{number}", **SHORT}
                if number % 2:
                    chunks = list(client.chat.completions.create(**body, stream=True))
                    assert chunks[-1].choices[0].finish_reason
                    seen.append(chunks[0].model)
                else:
                    seen.append(client.chat.completions.create(**body).model)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(4)]
        try:
            rollout.deploy(second)
            rollout.shadow(second)
            for _ in range(600):
                if len(copies := shadows()):
                    break
                time.sleep(0.05)
            for percent in (5, 25, 50):
                rollout.canary(second, percent)
                rollout.undeploy_unused(set())
                assert rollout.served().health()["canary"] == {"digest": second, "percent": percent}
            rollout.promote(second)
            rollout.promote(second)
            until = len(seen) + 8
            while len(seen) < until and not any(a.done() for a in asking):
                time.sleep(0.05)
            rollout.undeploy_unused(set())
            until = len(seen) + 8
            while len(seen) < until and not any(a.done() for a in asking):
                time.sleep(0.05)
        finally:
            stop.set()
        for done in asking:
            done.result()
    assert set(copies["digest"]) == {second}
    assert seen[0] == first
    assert seen[-1] == second
    assert list(rollout.served().served) == [second]


def test_the_package_before_stays_served_where_it_is_a_route(ray_stack: RayStack) -> None:
    path = ray_stack.root / "deployments/serve.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["fallback"]["production"] = ["production", "previous"]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    before, after = rollout.served().production, ray_stack.publish(5)
    rollout.deploy(after)
    rollout.promote(after)
    rollout.undeploy_unused(set())
    assert (rollout.served().previous, set(rollout.served().served)) == (before, {before, after})
    rollout.promote(str(before))
    rollout.undeploy_unused(set())
    assert (rollout.served().previous, list(rollout.served().served)) == (None, [before])
