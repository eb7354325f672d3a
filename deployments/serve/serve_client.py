"""Serve client: Ray Serve's REST interface, to list the running applications and to configure them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from deployments.core.ports import require_free
from deployments.core.settings import ServeSettings
from deployments.serve.ray_token import auth_headers
from tasks.core.errors import GraftError
from tasks.core.paths import LOGS

_POLL_S = 0.5


def is_running(settings: ServeSettings, name: str) -> bool:
    """Whether an application runs as configured; not while it is `UNHEALTHY`, when Serve replaces a dead replica.

    Raises:
        GraftError: the application failed to start.
    """
    application = list_applications(settings).get(name, {"status": "NOT_STARTED"})
    if has_failed(application):
        raise GraftError(f"{name} did not come up: {failure_reason(application)}")
    return bool(application["status"] == "RUNNING")


def has_failed(application: dict[str, Any]) -> bool:
    """Whether an application failed to start for good.

    Serve's status is `DEPLOY_FAILED`, too, while a replica that died during a change of configuration
    is being replaced; that status passes.
    """
    if application["status"] != "DEPLOY_FAILED":
        return False
    failed = [d for d in application["deployments"].values() if d["status"] == "DEPLOY_FAILED"]
    return not failed or any(d["status_trigger"] != "HEALTH_CHECK_FAILED" for d in failed)


def failure_reason(application: dict[str, Any]) -> str:
    """The error message of a failed application, extracted from Serve's nested tracebacks."""
    messages = [application["message"], *(d["message"] for d in application["deployments"].values())]
    lines = [line.strip() for message in messages for line in message.splitlines() if "Error: " in line]
    plain = [line for line in lines if not line.startswith(("RuntimeError: Traceback", "ray.exceptions."))]
    return (plain or lines or [messages[0] or "Serve reports no reason"])[-1]


def wait_until(done: Callable[[], bool], limit_s: float, description: str) -> None:
    """Poll until `done`; `description` is the subject of the error message.

    Raises:
        GraftError: it was not done within `limit_s` seconds.
    """
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            logs = Path.cwd() / LOGS / "serve"
            raise GraftError(f"{description}: not ready after {limit_s:g} s; see Serve's logs in {logs}")
        time.sleep(_POLL_S)


def configurations(applications: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The configuration of each application, as Serve has it; sent back unchanged, it has no effect."""
    return {name: a["deployed_app_config"] for name, a in applications.items() if a["deployed_app_config"]}


def application_config(
    name: str, builder: str, arguments: dict[str, Any], deployment: dict[str, Any], route: str | None
) -> dict[str, Any]:
    """Serve's configuration of an application with one deployment.

    Args:
        name: name of the application.
        builder: import path of the function that builds it.
        arguments: arguments of `builder`; a change restarts the replicas.
        deployment: name, size and `user_config` of the deployment.
        route: HTTP prefix of its routes; None if it has none.
    """
    return {
        "name": name,
        "route_prefix": route,
        "import_path": builder,
        "args": arguments,
        "deployments": [deployment],
    }


def serve_url(settings: ServeSettings) -> str:
    """The URL of Serve's HTTP proxy, without a slash at the end."""
    return f"http://{settings.http.host}:{settings.http.port}"


def list_applications(settings: ServeSettings) -> dict[str, dict[str, Any]]:
    """Serve's applications by name, each with status, message, deployments and configuration."""
    return _serve(settings, "GET")["applications"]


def put_applications(settings: ServeSettings, applications: dict[str, Any]) -> None:
    """Make Serve run exactly these applications; start Serve first if it does not run."""
    if not _serve(settings, "GET")["proxies"]:
        require_free(settings.http.host, settings.http.port, "http.port")
    logs = Path.cwd() / LOGS / "serve"
    logs.mkdir(parents=True, exist_ok=True)
    body = {
        "proxy_location": settings.scale.proxies,
        "http_options": {"host": settings.http.host, "port": settings.http.port},
        "logging_config": {"logs_dir": str(logs)},
        "applications": list(applications.values()),
    }
    _serve(settings, "PUT", body)


def _serve(settings: ServeSettings, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    where = f"http://{settings.ray.host}:{settings.ray.dashboard_port}"
    try:
        url, headers = where + "/api/serve/applications/", auth_headers(settings.ray)
        response = httpx.request(method, url, json=body, headers=headers, timeout=60.0)
    except httpx.HTTPError as error:
        raise GraftError(f"Ray does not answer at {where} ({error}); is the stack up? Try `graft up`") from error
    if not response.is_success:
        raise GraftError(f"Serve at {where} refused the configuration: {response.text.strip()[-800:]}")
    return response.json() if method == "GET" else {}
