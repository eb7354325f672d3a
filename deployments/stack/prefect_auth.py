"""HTTP authentication at the stack's Prefect server: basic authentication, and CSRF tokens."""

from __future__ import annotations

from collections.abc import Generator
from uuid import uuid4

import httpx

_READS = ("GET", "HEAD", "OPTIONS")


class PrefectAuth(httpx.Auth):
    """Adds the password to each request, and a CSRF token to those that change something.

    Prefect gives a token to a client id for an hour; a refused one is fetched again.

    Args:
        api_url: URL of the server's API.
        auth: `USER:PASSWORD`, or None for a server without a login.
    """

    requires_response_body = True

    def __init__(self, api_url: str, auth: str | None) -> None:
        self._token_url = f"{api_url}/csrf-token"
        self._basic = httpx.BasicAuth(*auth.split(":", 1)) if auth else None
        self._client = str(uuid4())
        self._token: str | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if request.method in _READS:
            yield self._signed(request)
            return
        if self._token is None:
            yield from self._fetch_token()
        response = yield self._signed(request)
        if response.status_code == httpx.codes.FORBIDDEN:
            yield from self._fetch_token()
            yield self._signed(request)

    def _fetch_token(self) -> Generator[httpx.Request, httpx.Response, None]:
        """Ask for a token; a server without CSRF protection has none, and needs none."""
        response = yield self._signed(httpx.Request("GET", self._token_url, params={"client": self._client}))
        self._token = response.json()["token"] if response.is_success else None

    def _signed(self, request: httpx.Request) -> httpx.Request:
        if self._basic:
            next(self._basic.auth_flow(request))  # writes the header into the request
        if self._token and request.method not in _READS:
            request.headers.update({"Prefect-Csrf-Token": self._token, "Prefect-Csrf-Client": self._client})
        return request
