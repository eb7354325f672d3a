"""Tests of the Prefect API client against a real HTTP server that is busy for a while, as with a locked database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deployments.stack.prefect_api import PrefectApi
from tasks.core.errors import GraftError


class Busy(ThreadingHTTPServer):
    """A server that answers 503 until `refusals` are used up, and is slow for the first `late` requests."""

    refusals = 0
    requests = 0
    late = 0


class Handler(BaseHTTPRequestHandler):
    server: Busy

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.server.requests <= self.server.late:
            time.sleep(1.0)
        busy = self.server.requests <= self.server.refusals
        self.send_response(503 if busy else 200 if "known" in self.path else 404)
        self.end_headers()
        self.wfile.write(b'{"id": "known"}')

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    monkeypatch.setattr("deployments.stack.prefect_api._PAUSES_S", (0.01, 0.01))
    with Busy(("127.0.0.1", 0), Handler) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        yield busy
        busy.shutdown()


def api(server: Busy) -> PrefectApi:
    return PrefectApi(f"http://127.0.0.1:{server.server_address[1]}")


def test_a_busy_server_is_asked_again(server: Busy) -> None:
    server.refusals = 2
    assert api(server).run("known")["id"] == "known"
    assert server.requests == 3


def test_a_late_server_is_asked_again(server: Busy) -> None:
    server.late = 1
    impatient = PrefectApi(f"http://127.0.0.1:{server.server_address[1]}", timeout_s=0.3)
    assert impatient.run("known")["id"] == "known"
    assert server.requests == 2


def test_a_server_that_stays_busy_or_refuses_is_named_with_its_answer(server: Busy) -> None:
    with pytest.raises(GraftError, match="GET /flow_runs/x answered 404"):
        api(server).run("x")
    server.refusals = 100
    with pytest.raises(GraftError, match="answered 503"):
        api(server).run("known")


def test_no_server_is_one_clear_message() -> None:
    absent = PrefectApi("http://127.0.0.1:9")
    assert not absent.healthy()
    with pytest.raises(GraftError, match=r"does not answer.*graft up"):
        absent.run("x")
