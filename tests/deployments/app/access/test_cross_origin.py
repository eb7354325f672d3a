"""Cross-origin requests: what a web page, or a name that was made to resolve to this machine, may not do."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.app.access.cross_origin import CrossOriginGuard
from deployments.core.settings import HttpSettings

LOCAL = HttpSettings(host="127.0.0.1", port=8000, allowed_hosts=(), cors_origins=())
PAGE = "https://shop.example.org"


def send(settings: HttpSettings, method: str = "GET", *, keyed: bool = False, **headers: str) -> httpx.Response:
    """The answer to a request; a header's name has `_` for `-`."""
    app = FastAPI()

    @app.api_route("/v1/models", methods=["GET", "POST"])
    async def models() -> dict[str, Any]:
        return {"data": []}

    app.add_middleware(CrossOriginGuard, settings, keyed=keyed)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, "/v1/models", headers=named)

    return asyncio.run(ask())


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.2"])
def test_loopback_is_always_a_name_of_the_service(host: str) -> None:
    assert send(LOCAL, host=host).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "10.0.0.7", "[", "a@127.0.0.1", "[::1"]
)
def test_a_foreign_host_is_refused_with_the_setting_that_would_allow_it(host: str) -> None:
    answer = send(LOCAL, host=host)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_not_allowed"
    assert "http.allowed_hosts" in answer.json()["error"]["message"]


def test_listed_hosts_and_the_address_itself_are_accepted_and_with_keys_any_host_unless_some_are_listed() -> None:
    listed = LOCAL.model_copy(update={"host": "10.0.0.7", "allowed_hosts": ("shop.example.org",)})
    for keyed in (False, True):
        assert send(listed, host="shop.example.org:443", keyed=keyed).status_code == 200
        assert send(listed, host="10.0.0.7:8000", keyed=keyed).status_code == 200
        assert send(listed, host="evil.example", keyed=keyed).status_code == 403
    assert send(LOCAL, host="any.example", keyed=True).status_code == 200


@pytest.mark.parametrize("origin", [PAGE, "null", "http://127.0.0.1:9000", "http://localhost:8000", ""])
@pytest.mark.parametrize("keyed", [True, False])
def test_a_page_of_another_origin_is_refused(origin: str, keyed: bool) -> None:
    answer = send(LOCAL, "POST", keyed=keyed, origin=origin)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_the_service_itself_is_of_no_other_origin() -> None:
    assert send(LOCAL, "POST", origin="http://127.0.0.1:8000").status_code == 200


def test_a_listed_origin_gets_the_headers_that_its_browser_asks_for_and_no_other_does() -> None:
    listed = LOCAL.model_copy(update={"cors_origins": (PAGE,)})
    wanted = {"access_control_request_method": "POST", "access_control_request_headers": "content-type,authorization"}
    preflight = send(listed, "OPTIONS", origin=PAGE, **wanted)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert send(listed, "POST", origin=PAGE).headers["access-control-allow-origin"] == PAGE
    for settings in (listed, LOCAL):
        refused = send(settings, "OPTIONS", origin="https://evil.example", **wanted)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers


def test_a_pattern_is_no_origin() -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        HttpSettings(host="127.0.0.1", port=8000, allowed_hosts=(), cors_origins=("*",))
