"""Service stack for a benchmark: a Ray of its own, Serve and a package, in a temporary folder on free ports.

The settings are those of `deployments/serve.yaml` but for ports, and for rate limits that no benchmark reaches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.serving.systems import ServedModel, System, server
from deployments.app.access.api_keys import VARIABLE
from deployments.core.ports import take_free_ports
from deployments.core.settings import SERVE_YAML, ServeSettings, load_serve_settings
from deployments.serve import rollout
from deployments.serve.ray_head import head_command, ready
from deployments.serve.ray_token import auth_headers
from tasks.core.files import write_json, write_text
from tasks.core.paths import PARAMS, REGISTRY, SHOP_SEED
from tasks.model_package.manifest import MANIFEST, PROMPT, read_manifest
from tasks.prompt.template import PromptSource
from tasks.registry.registry import REGISTRY_YAML, open_registry

_NO_LIMIT = 1_000_000_000


@dataclass(frozen=True)
class Stack:
    """A running service."""

    root: Path
    """Its folder, which is the process's working directory."""
    settings: ServeSettings
    """Settings of the service."""
    system: System
    """The service as a system of the benchmark."""
    digest: str
    """Digest of the package in production."""

    @property
    def url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"http://{self.settings.http.host}:{self.settings.http.port}/v1"

    def publish(self, package: Path, base: Path) -> str:
        """Publish a package to the service's registry; return its digest."""
        return _publish(package, base)

    def replicas(self, digest: str) -> list[int]:
        """Pids of the package's running replicas."""
        ray = self.settings.ray
        where = f"http://{ray.host}:{ray.dashboard_port}/api/serve/applications/"
        answer = httpx.get(where, headers=auth_headers(ray, self.root), timeout=30.0)
        applications: dict[str, Any] = answer.json()["applications"]
        name = rollout.served().served[digest].app
        (deployment,) = applications[name]["deployments"].values()
        return [replica["pid"] for replica in deployment["replicas"] if replica["state"] == "RUNNING"]


@contextmanager
def service(package: Path, base: Path, root: Path) -> Iterator[Stack]:
    """Serve a package from `root` until the block ends; `root` is the working directory meanwhile."""
    _write_settings(root)
    with chdir(root):
        settings = load_serve_settings()
        os.environ.pop(VARIABLE, None)  # with the caller's API keys every client would need one
        argv, environment = head_command(settings.one_box.ray, root)
        with server("ray", argv, environment, lambda: ready(settings.ray, root), root) as pid:
            digest = _publish(package, base)
            rollout.redeploy(digest)
            # Sent as the client's own, the tools are not run, so a turn is one model call, as with other systems.
            tools = PromptSource.read(package / PROMPT).tools
            model = ServedModel(rollout.base_url(), digest, [], tools)
            system = System("service", pid, model.drive)
            yield Stack(root, settings, system, digest)


def renamed_copy(package: Path, target: Path) -> Path:
    """Copy a package under another name, and so with another digest."""
    shutil.copytree(package, target)
    manifest = read_manifest(package)
    write_json(target / MANIFEST, manifest.model_copy(update={"name": f"{manifest.name}-copy"}).model_dump())
    return target


def _publish(package: Path, base: Path) -> str:
    evaluation = Path("evaluation")
    evaluation.mkdir(exist_ok=True)
    return open_registry().publish(package, base, evaluation)


def _write_settings(root: Path) -> None:
    content = yaml.safe_load(SERVE_YAML.read_text(encoding="utf-8"))
    content["profile"] = "one_box"
    take_free_ports(content)
    content["limits"].update(requests_per_minute=_NO_LIMIT, tokens_per_minute=_NO_LIMIT, streams=_NO_LIMIT)
    write_text(root / SERVE_YAML, yaml.safe_dump(content))
    registry = {"location": str(REGISTRY), "endpoint": None}  # its own, wherever the shipped one lies
    write_text(root / REGISTRY_YAML, yaml.safe_dump(registry))
    shutil.copy(PARAMS, root)
    shutil.copytree(SHOP_SEED, root / SHOP_SEED)
