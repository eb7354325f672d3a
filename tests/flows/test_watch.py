"""Tests of the flow `watch` against a real HTTP server that stands in for Prefect's: one event for all changes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import monitor
from flows.watch import EVENT, LOST_S, RESOURCE, watch
from tasks.core.errors import GraftError
from tasks.monitoring.change_detection import ANNOUNCED, SETTLE_S, remember_run
from tests.conftest import ROOT
from tests.support.prefect_stack import edit_yaml


class Events(ThreadingHTTPServer):
    """A server that keeps the events it gets, or answers 500 while `broken`; `runs` are the release's, oldest first."""

    broken = False
    events: list[dict[str, Any]]
    runs: list[str]

    def known(self, states: list[str]) -> list[dict[str, str]]:
        """Runs in these states."""
        run = {"created": "2026-01-31T12:00:00Z"}
        return [{**run, "name": f"run-{n}", "state_type": s} for n, s in enumerate(self.runs) if s in states]


class Handler(BaseHTTPRequestHandler):
    server: Events

    def do_GET(self) -> None:
        if self.path.startswith("/api/csrf-token"):
            self.send_error(422)
            return
        assert self.path == "/api/deployments/name/release/release"
        self.answer({"id": "the release"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/flow_runs/filter":
            assert body["flow_runs"]["deployment_id"] == {"any_": ["the release"]}
            self.answer(self.server.known(body["flow_runs"]["state"]["type"]["any_"]))
        elif self.server.broken:
            self.send_error(500)
        else:
            self.server.events += body
            self.answer(None)

    def answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server(repository: Path) -> Iterator[Events]:
    """A server at the address of Prefect in the repository's stack file; a release run has read the repository."""
    with Events(("127.0.0.1", 0), Handler) as events:
        events.events, events.runs = [], []
        edit_yaml(repository / "deployments/stack.yaml", {"prefect.port": events.server_address[1]})
        threading.Thread(target=events.serve_forever, daemon=True).start()
        settle()
        remember_run()
        yield events
        events.shutdown()


def settle() -> None:
    """Make everything look as if it was written a while ago."""
    old = time.time() - 2 * SETTLE_S
    for file in (Path("params.yaml"), *(file for file in Path("data").rglob("*") if file.is_file())):
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
        (EVENT, {"prefect.resource.id": RESOURCE}, {"changed": files})
    ]


def test_a_prompt_that_is_being_written_waits(server: Events) -> None:
    change("data/raw/plant_care.jsonl")
    Path("data/prompts/system.txt").write_text("half of", encoding="utf-8")
    assert watch.fn().name == "Waiting"
    assert server.events == []
    settle()
    assert watch.fn().name == "Announced"
    assert server.events[0]["payload"] == {"changed": ["data/prompts/system.txt", "data/raw/plant_care.jsonl"]}


def test_an_event_that_the_server_did_not_take_is_sent_again(server: Events) -> None:
    change("data/prompts/system.txt")
    server.broken = True
    with pytest.raises(GraftError, match="POST /events answered 500"):
        watch.fn()
    server.broken = False
    assert watch.fn().name == "Announced"
    assert len(server.events) == 1


def test_what_changes_while_a_run_waits_to_begin_is_left_to_it(server: Events) -> None:
    server.runs = ["COMPLETED", "RUNNING"]
    change("data/raw/plant_care.jsonl")
    assert watch.fn().name == "Announced"
    server.runs.append("SCHEDULED")  # created by the event, while the other one runs
    change("data/prompts/system.txt")
    assert watch.fn().name == "Queued"
    assert len(server.events) == 1
    remember_run()  # it begins
    server.runs[1:] = ["COMPLETED", "RUNNING"]
    assert watch.fn().name == "Unchanged"


def test_what_a_waiting_run_was_to_see_is_announced_when_it_is_canceled(server: Events) -> None:
    server.runs = ["PENDING"]
    change("params.yaml")
    assert watch.fn().name == "Queued"
    server.runs = ["CANCELLED"]
    assert watch.fn().name == "Announced"
    assert server.events[0]["payload"] == {"changed": ["params.yaml"]}


def test_an_event_that_led_to_no_run_is_sent_again(server: Events) -> None:
    server.runs = ["COMPLETED"]
    change("params.yaml")
    assert watch.fn().name == "Announced"
    assert watch.fn().name == "Unchanged"
    long_ago = time.time() - 2 * LOST_S
    os.utime(ANNOUNCED, (long_ago, long_ago))
    assert watch.fn().name == "Announced"
    assert len(server.events) == 2


def test_an_event_whose_run_was_canceled_is_not_sent_again(server: Events) -> None:
    change("params.yaml")
    assert watch.fn().name == "Announced"
    before_its_run = datetime(2026, 1, 31, 11, tzinfo=UTC).timestamp()
    os.utime(ANNOUNCED, (before_its_run, before_its_run))
    server.runs = ["CANCELLED"]
    assert watch.fn().name == "Unchanged"
    assert len(server.events) == 1


def test_a_run_that_died_is_run_once_more_and_no_more(server: Events) -> None:
    server.runs = ["COMPLETED", "CRASHED"]
    assert watch.fn().name == "Announced"
    assert server.events[0]["payload"] == {"changed": ["release run run-1 died"]}
    server.runs.append("SCHEDULED")
    assert watch.fn().name == "Queued"
    server.runs[-1] = "RUNNING"
    assert watch.fn().name == "Unchanged"
    server.runs[-1] = "CRASHED"
    assert watch.fn().name == "Unchanged"
    assert len(server.events) == 1


@pytest.mark.parametrize("end", ["CANCELLED", "FAILED", "COMPLETED"])
def test_a_run_that_ended_otherwise_is_not_run_again(server: Events, end: str) -> None:
    server.runs = ["CRASHED", end]
    assert watch.fn().name == "Unchanged"


def test_changes_and_drift_start_a_release() -> None:
    deployments = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    triggers = next(d["triggers"] for d in deployments if d["name"] == "release")
    assert [(t["expect"], t["match"]) for t in triggers] == [
        ([EVENT], {"prefect.resource.id": RESOURCE}),
        ([monitor.EVENT], {"prefect.resource.id": "graft.package.*"}),
    ]
