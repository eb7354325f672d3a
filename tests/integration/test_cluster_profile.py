"""Tests of the cluster profile on a Ray of three nodes, each with processes on this machine; one dies under load.

Also covers `deployments/core/loopback.py` and `deployments/core/settings.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import yaml

from deployments.core.loopback import LOOPBACK
from deployments.core.settings import SERVE_YAML
from deployments.serve import rollout
from deployments.serve.ray_head import node_environment
from deployments.serve.ray_token import auth_headers, local_ray_environment
from tests.integration.test_zero_downtime import edit
from tests.support.load_clients import steady_load
from tests.support.ray_stack import RayStack, stop_head

# `ray start` refuses to join a cluster where Ray is restricted to loopback; the nodes themselves can do so.
RAY = """
from ray._private import ray_constants, services
from ray.scripts.scripts import main
services.resolve_ip_for_localhost = lambda host: host
ray_constants.ENABLE_RAY_CLUSTER = True
main()
"""


def start_node(ray_stack: RayStack) -> subprocess.Popen[bytes]:
    """A node that joins the stack's head."""
    options = {
        "address": f"{ray_stack.settings.ray.host}:{ray_stack.settings.ray.gcs_port}",
        "node-ip-address": ray_stack.settings.ray.host,
        "num-cpus": 2,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "dashboard-agent-listen-port": 0,
        "object-store-memory": 100 * 1024 * 1024,
        "include-log-monitor": "false",
    }
    command = [sys.executable, "-c", RAY, "start", "--block", *(f"--{key}={value}" for key, value in options.items())]
    environment = {**os.environ, **LOOPBACK, **node_environment(), **local_ray_environment(ray_stack.root)}
    environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
    log = (ray_stack.root / "node.log").open("ab")
    return subprocess.Popen(
        command, cwd=ray_stack.root, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def dashboard(ray_stack: RayStack, path: str) -> Any:
    ray = ray_stack.settings.ray
    return httpx.get(f"http://{ray.host}:{ray.dashboard_port}{path}", headers=auth_headers(ray), timeout=30).json()


def await_nodes(ray_stack: RayStack, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(dashboard(ray_stack, "/nodes?view=summary")["data"]["summary"]) < count:
        assert time.monotonic() < deadline, (ray_stack.root / "node.log").read_text(encoding="utf-8")
        time.sleep(0.5)


def replicas(ray_stack: RayStack, digest: str) -> dict[int, int]:
    """A package's running replicas: pid, and node (the pid of its raylet)."""
    applications = dashboard(ray_stack, "/api/serve/applications/")["applications"]
    replicas = applications[f"engine-{digest[:12]}"]["deployments"]["EngineReplica"]["replicas"]
    running = [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]
    return {pid: psutil.Process(pid).ppid() for pid in running if psutil.pid_exists(pid)}


@pytest.fixture
def nodes(ray_stack: RayStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two nodes beside the head, and the profile `cluster` with the same Ray and its token."""
    for name, value in local_ray_environment(ray_stack.root).items():
        monkeypatch.setenv(name, value)
    ray = yaml.safe_load((ray_stack.root / SERVE_YAML).read_text(encoding="utf-8"))["one_box"]["ray"]
    address = {key: ray[key] for key in ("host", "gcs_port", "dashboard_port", "start_timeout_s")}
    sizes = {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.5, "memory_mb": 100}

    def choose(content: dict[str, Any]) -> None:
        content["profile"] = "cluster"
        content["cluster"]["ray"] = address
        for section in ("assistant", "engine"):
            content["cluster"][section].update(sizes)

    edit(choose)
    started: list[subprocess.Popen[bytes]] = []
    try:
        # One after the other: two that start together on one machine may take the same socket.
        for count in (2, 3):
            started.append(start_node(ray_stack))
            await_nodes(ray_stack, count)
        yield started
    finally:
        for node in started:
            stop_head(node)


def test_a_lost_node_costs_only_what_ran_on_it(ray_stack: RayStack, nodes: list[subprocess.Popen[bytes]]) -> None:
    digest = ray_stack.publish(1)
    rollout.deploy(digest)
    rollout.promote(digest)
    node_of = replicas(ray_stack, digest)
    assert len(set(node_of.values())) == 2, "the replicas are not spread"
    families = [[psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)] for node in nodes]
    victim = next(family for family in families if {process.pid for process in family} & node_of.keys())
    with steady_load(max_tokens=150) as load:
        for process in victim:
            process.kill()
        load.until(lambda: len(set(replicas(ray_stack, digest)) - {p.pid for p in victim}) == 2)
        load.wait()
        failures = (len(load.cut), len(load.lost))
        assert sum(failures) <= load.clients
        load.wait()
    assert (len(load.cut), len(load.lost)) == failures
