"""The watch against a real HTTP server in the place of Prefect's: one event for whatever changed, until it is taken."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.watch import EVENT, RESOURCE, watch
from tasks.errors import GraftError
from tasks.inputs import SETTLE_S, remember_run
from tests.conftest import ROOT
from tests.flows.conftest import edit_yaml


class Events(ThreadingHTTPServer):
    """Keeps the events that it is sent, or answers 500 while `broken`."""

    broken = False
    events: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Events

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.server.broken:
            self.server.events += body
        self.send_response(500 if self.server.broken else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(repository: Path) -> Iterator[Events]:
    """Where the repository's stack file says that Prefect answers; a release run has seen the repository."""
    with Events(("127.0.0.1", 0), Handler) as found:
        found.events = []
        edit_yaml(repository / "deployments/stack.yaml", {"prefect.port": found.server_address[1]})
        threading.Thread(target=found.serve_forever, daemon=True).start()
        settle()
        remember_run()
        yield found
        found.shutdown()


def settle() -> None:
    """Make everything look as if it was written a while ago."""
    old = time.time() - 2 * SETTLE_S
    for file in (file for file in Path("data").rglob("*") if file.is_file()):
        os.utime(file, (old, old))


def change(*names: str) -> None:
    for name in names:
        Path(name).write_text("changed", encoding="utf-8")
    settle()


def test_a_burst_of_changes_is_one_event_that_names_the_files(server: Events) -> None:
    assert watch.fn().name == "Unchanged"
    files = ["data/knowledge/roses.md", "data/prompts/system.txt", "data/raw/plant_care.jsonl"]
    change(*files)
    assert watch.fn().name == "Announced"
    assert watch.fn().name == "Unchanged"
    assert [(e["event"], e["resource"], e["payload"]) for e in server.events] == [
        (EVENT, {"prefect.resource.id": RESOURCE}, {"files": files})
    ]


def test_a_prompt_that_is_being_written_waits(server: Events) -> None:
    change("data/raw/plant_care.jsonl")
    Path("data/prompts/system.txt").write_text("half of", encoding="utf-8")
    assert watch.fn().name == "Waiting"
    assert server.events == []
    settle()
    assert watch.fn().name == "Announced"
    assert server.events[0]["payload"] == {"files": ["data/prompts/system.txt", "data/raw/plant_care.jsonl"]}


def test_an_event_that_the_server_did_not_take_is_sent_again(server: Events) -> None:
    change("data/prompts/system.txt")
    server.broken = True
    with pytest.raises(GraftError, match="POST /events gave 500"):
        watch.fn()
    server.broken = False
    assert watch.fn().name == "Announced"
    assert len(server.events) == 1


def test_the_event_is_the_one_that_starts_a_release() -> None:
    deployments = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    (trigger,) = next(d["triggers"] for d in deployments if d["name"] == "release")
    assert (trigger["expect"], trigger["match"]) == ([EVENT], {"prefect.resource.id": RESOURCE})
