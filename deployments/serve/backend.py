"""Serve backend: reaches packages and the embedding model through Ray Serve's handles, with failover."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from deployments.core.messages import OVERLOADED, EmbeddingResult, Event, Refusal, TurnRequest

_LOG = logging.getLogger(__name__)
_RETRY_AFTER_S = 5
_ATTEMPTS = 3
"""Replicas that a request is sent to, if one after the other dies."""
_BACKOFF_S = 0.5


class ServeBackend:
    """Reaches packages and the retrieval model, and retries when a replica is lost."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    async def embed(self, app: str, texts: tuple[str, ...]) -> EmbeddingResult | Refusal:
        """See `EmbeddingBackend.embed`."""
        response: Any = self._handle(app, stream=False).embed.remote(texts)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            return Refusal(503, OVERLOADED, "too many requests are waiting; try again shortly", _RETRY_AFTER_S)
        except RayTaskError:
            _LOG.exception("%s: embedding failed", app)
            return Refusal(500, "engine_error", "the model failed while answering; the server's log says why")
        except (RayError, RayServeException):
            _LOG.exception("%s: cannot be reached", app)
            return Refusal(503, "engine_unavailable", "the model is restarting; try again shortly", _RETRY_AFTER_S)

    async def stream(self, app: str, request: TurnRequest) -> AsyncGenerator[Event]:
        """See `Backend.stream`.

        A request whose replica died goes to another one, or waits for one until the caller's timeout.
        A request whose answer was already partly sent ends with a refusal, and so does one at which
        `_ATTEMPTS` replicas died, as it may be the cause.
        """
        begun = False
        for _ in range(_ATTEMPTS):
            try:
                async with aclosing(self._events(app, request)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except RayTaskError:
                _LOG.exception("%s: a turn failed", app)
                yield Refusal(500, "engine_error", "the model failed while answering; the server's log says why")
                return
            except RayServeException:
                _LOG.exception("%s: cannot be reached", app)
                break
            except RayError as error:
                _LOG.warning("%s: a replica was lost: %s", app, error)
                if begun and not request.whole:
                    break
                await asyncio.sleep(_BACKOFF_S)
        yield Refusal(503, "engine_unavailable", "the model is restarting; try again shortly", _RETRY_AFTER_S)

    async def _events(self, app: str, request: TurnRequest) -> AsyncGenerator[Event]:
        response = self._handle(app, stream=True).turn.remote(request)
        try:
            async for event in response:
                yield event
        finally:
            response.cancel()

    def _handle(self, app: str, *, stream: bool) -> Any:
        if app not in self._handles:  # the lookup is a blocking call to Serve's controller
            self._handles[app] = serve.get_app_handle(app).options(stream=stream)
        return self._handles[app]
