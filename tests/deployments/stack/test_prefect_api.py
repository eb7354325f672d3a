"""Against a real HTTP server that is busy for a while, as Prefect's is while its database is locked."""

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
    """Answers 503 until `refusals` are used up."""

    refusals = 0
    asked = 0
    late = 0


class Handler(BaseHTTPRequestHandler):
    server: Busy

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.asked <= self.server.late:
            time.sleep(1.0)
        busy = self.server.asked <= self.server.refusals
        self.send_response(503 if busy else 200 if "known" in self.path else 404)
        self.end_headers()
        self.wfile.write(b'{"id": "known"}')

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    monkeypatch.setattr("deployments.stack.prefect_api._PAUSES_S", (0.01, 0.01))
    with Busy(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def api(server: Busy) -> PrefectApi:
    return PrefectApi(f"http://127.0.0.1:{server.server_address[1]}")


def test_a_busy_server_is_asked_again(server: Busy) -> None:
    server.refusals = 2
    assert api(server).run("known")["id"] == "known"
    assert server.asked == 3


def test_a_late_server_is_asked_again(server: Busy) -> None:
    server.late = 1
    found = PrefectApi(f"http://127.0.0.1:{server.server_address[1]}", timeout_s=0.3)
    assert found.run("known")["id"] == "known"
    assert server.asked == 2


def test_a_server_that_stays_busy_or_refuses_is_named_with_what_it_said(server: Busy) -> None:
    with pytest.raises(GraftError, match="GET /flow_runs/x gave 404"):
        api(server).run("x")
    server.refusals = 100
    with pytest.raises(GraftError, match="gave 503"):
        api(server).run("known")


def test_no_server_is_one_clear_message() -> None:
    nobody = PrefectApi("http://127.0.0.1:9")
    assert not nobody.healthy()
    with pytest.raises(GraftError, match=r"does not answer.*graft up"):
        nobody.run("x")
