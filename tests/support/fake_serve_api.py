"""A fake of Serve's REST API and of the assistant's health endpoint, without Ray, for tests of rollouts.

tests/integration/test_serving.py tests rollouts on the real Serve.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deployments.core.settings import load_serve_settings
from deployments.serve.rollout import ASSISTANT


@dataclass
class PretendedServe:
    """The state of the fake."""

    applications: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Configured applications by name."""
    broken: set[str] = field(default_factory=set)
    """Names of the applications that fail to start."""

    def put(self, body: dict[str, Any]) -> None:
        self.applications = {application["name"]: application for application in body["applications"]}

    def listing(self) -> dict[str, Any]:
        return {
            "proxies": {"node": {}},
            "applications": {
                name: {
                    "status": "DEPLOY_FAILED" if name in self.broken else "RUNNING",
                    "message": "RuntimeError: not weights" if name in self.broken else "",
                    "deployments": {},
                    "deployed_app_config": config,
                }
                for name, config in self.applications.items()
            },
        }

    def health(self) -> dict[str, Any]:
        routing = self.applications[ASSISTANT]["deployments"][0]["user_config"]
        return {"production": routing["production"], "served": sorted(routing["served"])}


@contextmanager
def pretended_serve() -> Iterator[PretendedServe]:
    """Answer on the ports of `deployments/serve.yaml`, until the block ends."""
    serve, settings = PretendedServe(), load_serve_settings()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(serve.health() if self.path == "/healthz" else serve.listing())

        def do_PUT(self) -> None:
            serve.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer({})

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    addresses = [(settings.ray.host, settings.ray.dashboard_port), (settings.http.host, settings.http.port)]
    servers = [ThreadingHTTPServer(address, Handler) for address in addresses]
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield serve
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
