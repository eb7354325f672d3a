"""Cross-origin requests: the hosts by which the assistant may be addressed, and the web pages that may call it.

A browser sends a request of any web page to 127.0.0.1, from the machine of the person who looks at the page. Three
things tell such a request from one of an application: its `Origin` is another host's; its `Content-Type` is one
that browsers send without asking first (`read_body` in turn.py refuses it); or, where the page's own name was
made to resolve to this address (DNS rebinding), its `Host` is a name that the assistant does not have.

Where API keys are required a page cannot act without one, so any `Host` is accepted unless some are listed.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.app.openai.errors import ApiError
from deployments.core.loopback import is_loopback
from deployments.core.settings import HttpSettings

_METHODS = ("GET", "POST")
_REQUEST_HEADERS = ("authorization", "cache-control", "content-type", "idempotency-key")


class CrossOriginGuard:
    """ASGI middleware that answers 403 to requests for foreign hosts and of foreign web pages.

    Args:
        app: the application.
        settings: the listed hosts and origins.
        keyed: whether API keys are required.
    """

    def __init__(self, app: ASGIApp, settings: HttpSettings, keyed: bool) -> None:
        self._settings = settings
        self._any_host = keyed and not settings.allowed_hosts
        self._app = app
        if settings.cors_origins:
            origins, headers = list(settings.cors_origins), ["*"]
            self._app = CORSMiddleware(app, origins, _METHODS, _REQUEST_HEADERS, expose_headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        if error:
            await JSONResponse(error.body, error.status)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> ApiError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not (self._any_host or _name(host) in self._settings.allowed_hosts or self._is_own(_name(host))):
            message = (
                f"this service is not called {_name(host)[:100]!r}; its names are in http.allowed_hosts (serve.yaml)"
            )
            return ApiError(403, "host_not_allowed", message)
        if origin is not None and not (origin in self._settings.cors_origins or _is_of(origin, host)):
            message = f"pages of {origin[:100]!r} may not call this service; list it in http.cors_origins (serve.yaml)"
            return ApiError(403, "origin_not_allowed", message)
        return None

    def _is_own(self, name: str) -> bool:
        """Whether it is a name of loopback, or the address that the service listens on."""
        return name in ("localhost", self._settings.host) or is_loopback(name)


def _is_of(origin: str, host: str) -> bool:
    """Whether a page of `origin` came from this very host and port."""
    parts = _authority(origin)
    return bool(host) and parts is not None and parts.netloc == host


def _name(host: str) -> str:
    """The `Host` header without its port, in lower case; an IPv6 address without its brackets. Empty for no host."""
    parts = _authority(f"//{host}")
    return parts.hostname or "" if parts and parts.netloc == host and parts.username is None else ""


def _authority(url: str) -> SplitResult | None:
    """The parts of a URL; None where its brackets hold no address."""
    try:
        return urlsplit(url)
    except ValueError:
        return None
