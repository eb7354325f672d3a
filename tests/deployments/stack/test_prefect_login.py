"""The login of Prefect: against the stack's real server with and without the password, and against one without CSRF.

Also covers `deployments/stack/approvals.py` and `deployments/stack/prefect_auth.py`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deployments.stack.approvals import decide
from deployments.stack.environment import stack_environment
from deployments.stack.prefect_auth import PrefectAuth
from deployments.stack.prefect_login import USER, auth_string, make_login
from tasks.core.errors import GraftError
from tests.support.prefect_stack import GraftStack

RUNS = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
SOCKETS = ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled")


def test_without_the_password_only_health_is_answered(stack: GraftStack) -> None:
    url = f"{stack.api.url}/api"
    assert httpx.get(f"{url}/health").is_success
    for auth in (None, (USER, "wrong"), ("admin", str(auth_string(stack.root)).partition(":")[2])):
        for method, path, body in (
            ("POST", "/flow_runs/filter", RUNS),
            ("GET", "/admin/settings", None),
            ("POST", "/work_pools/", {"name": "mine", "type": "process"}),
            ("POST", f"/flow_runs/{uuid4()}/resume", {"run_input": {"approve": True}}),
            ("GET", f"/csrf-token?client={uuid4()}", None),
        ):
            answer = httpx.request(method, url + path, json=body, auth=auth)
            assert answer.status_code in (401, 403), path  # 403: it lacks a CSRF token too, for which it would get 401
    assert not stack.api.open_to_all()


def test_with_the_password_a_change_still_needs_a_csrf_token(stack: GraftStack) -> None:
    user, _, password = str(auth_string(stack.root)).partition(":")
    pool = {"name": f"pool-{uuid4()}", "type": "process"}
    refused = httpx.post(f"{stack.api.url}/api/work_pools/", json=pool, auth=(user, password))
    assert refused.status_code == 403
    assert "CSRF" in refused.text
    assert stack.prefect.post("/work_pools/", json=pool).status_code == 201
    assert stack.prefect.delete(f"/work_pools/{pool['name']}").is_success


def test_a_token_that_is_no_longer_accepted_is_fetched_again(stack: GraftStack) -> None:
    client = stack.prefect
    assert client.post("/flow_runs/filter", json=RUNS).is_success
    assert isinstance(client.auth, PrefectAuth)
    client.auth._token = "expired"
    assert client.post("/flow_runs/filter", json=RUNS).is_success


@pytest.mark.parametrize("path", SOCKETS)
def test_a_strangers_websocket_is_closed_before_it_says_anything(stack: GraftStack, path: str) -> None:
    url = f"{stack.api.url.replace('http', 'ws')}/api/{path}"

    async def listen(protocols: list[str] | None, token: str | None) -> str:
        try:
            async with connect(url, subprotocols=protocols, proxy=None) as socket:  # type: ignore[arg-type]
                if token is not None:
                    await socket.send(json.dumps({"type": "auth", "token": token}))
                return str(await asyncio.wait_for(socket.recv(), 10))
        except (ConnectionClosed, InvalidStatus) as closed:
            return type(closed).__name__

    for protocols, token in ((None, None), (["prefect"], "wrong"), (["prefect"], "")):
        assert asyncio.run(listen(protocols, token)) in ("ConnectionClosedError", "InvalidStatus", "ConnectionClosedOK")
    assert "auth_success" in asyncio.run(listen(["prefect"], auth_string(stack.root)))


def test_pages_of_other_origins_get_no_permission(stack: GraftStack) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    foreign = httpx.options(f"{stack.api.url}/api/flow_runs/filter", headers=asked)
    assert "access-control-allow-origin" not in foreign.headers
    own = httpx.options(f"{stack.api.url}/api/flow_runs/filter", headers={**asked, "origin": stack.api.url})
    assert own.headers["access-control-allow-origin"] == stack.api.url


def test_replicas_do_not_get_the_password(stack: GraftStack) -> None:
    environment = Path(f"/proc/{stack.pids()['ray']}/environ").read_bytes().decode()
    assert "PREFECT_API_AUTH_STRING" not in environment
    assert "RAY_AUTH_MODE=token" in environment


def test_a_decision_without_a_paused_release_is_one_error(stack: GraftStack) -> None:
    with pytest.raises(GraftError, match="no release waits for an approval"):
        decide(stack.api, approve=True, by="Ada", reason="why not")


def test_settings_files_in_the_repository_do_not_redirect_prefect(tmp_path: Path) -> None:
    """Prefect reads them in the working directory."""
    root = tmp_path / "root"
    (root / "deployments").mkdir(parents=True)
    stack_yaml = Path(__file__).parents[3] / "deployments/stack.yaml"
    (root / "deployments/stack.yaml").write_bytes(stack_yaml.read_bytes())
    make_login(root)
    elsewhere = "https://evil.example/api"
    settings = {
        "PREFECT_API_URL": elsewhere,
        "PREFECT_API_AUTH_STRING": "a:b",
        "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////elsewhere.db",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////elsewhere.db",
        "PREFECT_HOME": "/elsewhere",
        "PREFECT_PROFILES_PATH": "/elsewhere/profiles.toml",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "*",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": elsewhere,
        "PREFECT_UI_API_URL": elsewhere,
    }
    (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
    (root / "prefect.toml").write_text(
        f'[api]\nurl = "{elsewhere}"\n[server.api]\nhost = "0.0.0.0"\n', encoding="utf-8"
    )
    code = (
        "import json; from prefect.settings import get_current_settings as s; c = s();"
        "print(json.dumps([c.api.url, c.api.auth_string.get_secret_value(), str(c.home), str(c.profiles_path),"
        "c.server.database.connection_url.get_secret_value(), c.server.ui.api_url,"
        "c.server.api.cors_allowed_origins, c.server.api.csrf_protection_enabled, c.server.api.host]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=stack_environment(root), capture_output=True, text=True, check=True
    )
    api, home = "http://127.0.0.1:4200/api", str(root / ".graft/prefect")
    database = f"sqlite+aiosqlite:///{home}/prefect.db"
    origin = "http://127.0.0.1:4200"
    expected = [api, auth_string(root), home, f"{home}/profiles.toml", database, api, origin, True, "127.0.0.1"]
    assert json.loads(done.stdout) == expected


def test_a_server_without_a_login_or_csrf_protection_is_served_too() -> None:
    """As the one that an older version of Graft started, until `graft up` starts it again."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(422 if "csrf-token" in request.url.path else 200, json={})

    login = PrefectAuth("http://prefect/api", None)
    client = httpx.Client(base_url="http://prefect/api", auth=login, transport=httpx.MockTransport(answer))
    assert client.post("/flow_runs/filter", json=RUNS).is_success
    assert [request.url.path for request in seen] == ["/api/csrf-token", "/api/flow_runs/filter"]
    assert not {"authorization", "prefect-csrf-token"} & seen[-1].headers.keys()
