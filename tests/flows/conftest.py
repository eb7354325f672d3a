"""A copy of the repository with ports of its own, so that its stack meets nobody else's."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

COPIED = ("tasks", "flows", "deployments", "data", ".dvc/config", "params.yaml", "dvc.yaml", "pyproject.toml")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def edit_yaml(path: Path, **changes: int) -> None:
    """Set keys such as `prefect__port` in a YAML file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = content
        for parent in parents:
            section = section[parent]
        section[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def copy_repository(target: Path) -> Path:
    """Copy what a clone holds into `target`, and give it free ports."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    prefect, http, gcs, dashboard, agent, client = free_ports(6)
    edit_yaml(target / "deployments/stack.yaml", prefect__port=prefect)
    edit_yaml(
        target / "deployments/serve.yaml",
        http__port=http,
        ray__gcs_port=gcs,
        ray__dashboard_port=dashboard,
        ray__agent_port=agent,
        ray__client_port=client,
    )
    return target


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the repository, without a stack, as the working directory."""
    copied = copy_repository(tmp_path / "repository")
    monkeypatch.chdir(copied)
    yield copied


__all__ = ["copy_repository", "edit_yaml", "free_ports", "os"]
