"""The backend of the assistant: packages and the embedding model, reached through Ray Serve's handles."""

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


_TRIES = 3
"""Replicas that a request is asked at, if one after the other dies of it or beside it."""


_AGAIN_S = 0.5


class ServeBackend:
    """Reaches packages and the retrieval model through Serve's handles, and asks again when a replica is lost."""

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

    async def stream(self, app: str, ask: TurnRequest) -> AsyncGenerator[Event]:
        """See `Backend.stream`.

        A request whose replica died goes to another one, or waits until there is one, for as long as
        the caller has patience. One whose answer was already partly given ends with a refusal,
        and so does one at which `_TRIES` replicas died, for it may be what kills them.
        """
        given = False
        for _ in range(_TRIES):
            try:
                async with aclosing(self._events(app, ask)) as events:
                    async for event in events:
                        given = True
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
                if given and not ask.whole:
                    break
                await asyncio.sleep(_AGAIN_S)
        yield Refusal(503, "engine_unavailable", "the model is restarting; try again shortly", _RETRY_AFTER_S)

    async def _events(self, app: str, ask: TurnRequest) -> AsyncGenerator[Event]:
        response = self._handle(app, stream=True).turn.remote(ask)
        try:
            async for event in response:
                yield event
        finally:
            response.cancel()

    def _handle(self, app: str, *, stream: bool) -> Any:
        if app not in self._handles:  # looking it up asks Serve's controller, and waits
            self._handles[app] = serve.get_app_handle(app).options(stream=stream)
        return self._handles[app]
