"""Tests of zero-downtime changes: each is made for real under steady load, and every request is counted.

Also covers `deployments/serve/rollout.py` and `deployments/serve/serve_client.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from deployments.serve import rollout
from deployments.serve.ray_token import auth_headers
from tests.support.faulty_engine import FAULT
from tests.support.load_clients import steady_load
from tests.support.ray_stack import RayStack

YAML = Path("deployments/serve.yaml")


def edit(change: Callable[[dict[str, Any]], None]) -> None:
    content = yaml.safe_load(YAML.read_text(encoding="utf-8"))
    change(content)
    YAML.write_text(yaml.safe_dump(content), encoding="utf-8")


def scale(section: str, least: int, most: int, **more: float) -> None:
    edit(lambda c: c["one_box"][section].update(min_replicas=least, max_replicas=most, **more))


def pids(ray_stack: RayStack, application: str) -> list[int]:
    """Processes of an application's running replicas; a package's is named by its digest."""
    ray = ray_stack.settings.ray
    url = f"http://{ray.host}:{ray.dashboard_port}/api/serve/applications/"
    content = httpx.get(url, headers=auth_headers(ray), timeout=30).json()
    name = application if application == rollout.ASSISTANT else f"engine-{application[:12]}"
    (deployment,) = content["applications"][name]["deployments"].values()
    return [replica["pid"] for replica in deployment["replicas"] if replica["state"] == "RUNNING"]


@pytest.fixture(scope="module")
def first(ray_stack: RayStack) -> Iterator[str]:
    """The digest in production, on engines that fail on demand."""
    edit(lambda c: c["engine"].update(health_check_period_s=3))
    digest = ray_stack.publish(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout, "ENGINE_BUILDER", "tests.support.faulty_engine:engine")
        rollout.deploy(digest)
        rollout.promote(digest)
        yield digest


@pytest.fixture(scope="module")
def second(ray_stack: RayStack) -> str:
    return ray_stack.publish(2)


@pytest.mark.usefixtures("ray_stack")
def test_another_package_and_the_way_back_lose_nothing(first: str, second: str) -> None:
    with steady_load() as load:
        rollout.deploy(second)
        rollout.promote(second)
        load.wait()
        rollout.deploy(first)
        rollout.promote(first)
        load.wait()
        rollout.undeploy_unused(set())
    assert (load.cut, load.lost) == ([], [])
    assert set(load.answered) == {first, second}


def test_other_settings_lose_nothing(ray_stack: RayStack, first: str) -> None:
    """They need new processes, of the assistant too: those answer before the old ones stop."""
    before = pids(ray_stack, first) + pids(ray_stack, rollout.ASSISTANT)
    with steady_load() as load:
        edit(lambda c: (c["engine"].update(max_num_seqs=4), c["limits"].update(streams=60)))
        rollout.redeploy(first)
    assert (load.cut, load.lost) == ([], [])
    assert not set(before) & {*pids(ray_stack, first), *pids(ray_stack, rollout.ASSISTANT)}


@pytest.mark.parametrize("fault", ["memory", "stall"])
def test_an_engine_that_fails_is_replaced(ray_stack: RayStack, first: str, fault: str) -> None:
    """There is no other replica, so requests wait for the new one: only begun streams are cut."""
    (victim,) = pids(ray_stack, first)
    with steady_load(max_tokens=300, pause_s=0.0) as load:  # so that there are streams to cut
        FAULT.write_text(fault, encoding="utf-8")
        load.until(lambda: not FAULT.exists())
        load.wait()
    assert load.lost == []
    assert 0 < len(load.cut) <= load.streams
    assert victim not in pids(ray_stack, first)


def test_replicas_that_come_die_and_go_with_the_load(ray_stack: RayStack, first: str) -> None:
    """When a replica dies, requests for whole answers are retried, and begun streams end with an error event."""
    with steady_load(max_tokens=300) as load:
        scale("engine", 1, 2, target_ongoing=1, upscale_delay_s=0.5, downscale_delay_s=0.5)
        rollout.deploy(first)
        load.until(lambda: len(pids(ray_stack, first)) == 2)
        load.wait()
        assert (load.cut, load.lost) == ([], [])
        victim = pids(ray_stack, first)[0]
        psutil.Process(victim).kill()
        load.wait()
        cut = len(load.cut)
        assert cut <= load.streams
        scale("engine", 1, 2, target_ongoing=100, upscale_delay_s=0.5, downscale_delay_s=0.5)
        rollout.deploy(first)
        load.until(lambda: len(pids(ray_stack, first)) == 1)
    assert (len(load.cut), load.lost) == (cut, [])


def test_a_second_assistant_comes_dies_and_goes(ray_stack: RayStack, first: str) -> None:
    """Requests on a killed assistant must be retried by their clients: no other process knows of them."""
    with steady_load() as load:
        scale("assistant", 2, 2)
        rollout.deploy(first)
        load.until(lambda: len(pids(ray_stack, rollout.ASSISTANT)) == 2)
        load.wait()
        assert (load.cut, load.lost) == ([], [])
        psutil.Process(pids(ray_stack, rollout.ASSISTANT)[0]).kill()
        load.wait()
        lost = len(load.lost)
        assert lost <= load.clients
        scale("assistant", 1, 1)
        rollout.deploy(first)
        load.until(lambda: len(pids(ray_stack, rollout.ASSISTANT)) == 1)
    assert (load.cut, len(load.lost)) == ([], lost)
