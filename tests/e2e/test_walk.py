"""The whole walk, once, as a person would take it: the real base model, Prefect, Ray and HTTP.

Slow because it is real. Only sizes differ from `make run`: fewer training steps and eval rows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
import yaml

from tasks.manifest import package_digest
from tasks.registry import LocalRegistry
from tasks.store import read_window
from tests.conftest import ROOT, free_port

pytestmark = pytest.mark.e2e
RUN_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Clone:
    """A clone of this repository with ports and sizes of its own, and the command line to use it."""

    root: Path
    url: str

    def graft(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        command = [sys.executable, "-c", "from flows.cli import main; main()", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT_S
        )

    @property
    def registry(self) -> LocalRegistry:
        return LocalRegistry(self.root / ".graft/registry")


def edit(path: Path, changes: dict[str, dict[str, object]]) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in changes.items():
        content[section].update(values)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    # Ray's sockets need a short path.
    root = Path(tempfile.mkdtemp(prefix="graft-walk-"))
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    port = free_port()
    edit(root / "deployments/stack.yaml", {"prefect": {"port": free_port()}})
    ray_ports = {key: free_port() for key in ("gcs_port", "dashboard_port", "agent_port", "client_port")}
    edit(root / "deployments/serve.yaml", {"http": {"port": port}, "ray": ray_ports})
    edit(
        root / "params.yaml",
        {
            "prepare": {"eval_share": 0.07},
            "train": {"epochs": 0.3},
            "gate": {"min_rows": 20},
            "engine": {"max_new_tokens": 48},
        },
    )
    made = Clone(root, f"http://127.0.0.1:{port}/v1")
    try:
        yield made
    finally:
        made.graft("down")
        shutil.rmtree(root, ignore_errors=True)


def test_the_whole_walk(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    first = clone.graft("run")
    assert first.returncode == 0, first.stdout + first.stderr
    channel = clone.registry.channel()
    assert channel is not None
    assert channel.digest == package_digest(clone.root / "build/package")
    assert f"base URL: {clone.url}" in first.stdout
    assert channel.digest in first.stdout

    check_answers(clone, channel.digest)
    monkeypatch.chdir(clone.root)
    rows = read_window(channel.at, psutil_now())
    asked = rows[rows["digest"] == channel.digest]
    assert {200} <= set(asked["status"])
    assert (asked["completion_tokens"].dropna() > 0).all()

    watched = clone.graft("monitor")
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "inconclusive" in watched.stdout  # a handful of answers proves nothing

    second = clone.graft("run")
    assert second.returncode == 0, second.stdout + second.stderr
    assert clone.registry.channel() == channel, "a second run changed what is in production"
    assert len(clone.registry.history()) == 1

    check_broken_data_is_refused(clone, channel.digest)

    started = [psutil.Process(json.loads(p.read_text())["pid"]) for p in (clone.root / ".graft/run").glob("*.json")]
    family = [child for process in started for child in (process, *process.children(recursive=True))]
    assert len(started) == 3
    down = clone.graft("down")
    assert down.returncode == 0, down.stderr
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def psutil_now():  # type: ignore[no-untyped-def]
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) + timedelta(seconds=1)


def check_answers(clone: Clone, digest: str) -> None:
    """The real OpenAI client: a plain answer, and a stream with its usage."""
    client = openai.OpenAI(base_url=clone.url, api_key="none", max_retries=0)
    question = [{"role": "user", "content": "Where is my parcel? The order is HL-20931."}]
    answer = client.chat.completions.create(model="production", messages=question)
    assert answer.model == digest
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls
    assert answer.usage.completion_tokens > 0
    chunks = list(
        client.chat.completions.create(
            model=digest, messages=question, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens  # greedy: the same answer
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no-such-model", messages=question)


def check_broken_data_is_refused(clone: Clone, digest: str) -> None:
    """A row with a broken role order stops the run with its file and line; production is untouched."""
    path = clone.root / "data/raw/order_status.jsonl"
    whole = path.read_text(encoding="utf-8")
    broken = {"id": "x", "label": "order_status", "messages": [{"role": "assistant", "content": "Hello?"}]}
    path.write_text(whole + json.dumps(broken) + "\n", encoding="utf-8")
    refused = clone.graft("run")
    assert refused.returncode == 1
    assert "role_order" in refused.stdout + refused.stderr
    assert f"order_status.jsonl:{len(whole.splitlines()) + 1}" in refused.stdout + refused.stderr
    assert clone.registry.channel().digest == digest
    check_answers(clone, digest)
    path.write_text(whole, encoding="utf-8")
