"""Timeouts: the limits on the time to the first token and on the whole turn."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from deployments.core.messages import Delta, Events, Refusal
from tasks.core.settings import Section


class Timeouts(Section):
    """The time limits of a turn."""

    first_token_s: float
    """Seconds to the first token of each route that is tried."""
    request_s: float
    """Seconds from the turn's arrival to its end."""


async def within(timeouts: Timeouts, arrived: float, events: Events) -> Events:
    """`events` to their last one, or to a refusal when the time is over.

    Args:
        timeouts: the first token's begins now, the whole turn's at `arrived`.
        arrived: when the turn arrived, by the event loop's clock.
        events: of the turn; are closed at the end.
    """
    end = arrived + timeouts.request_s
    async with aclosing(events):
        begun = False
        try:
            first = min(asyncio.get_running_loop().time() + timeouts.first_token_s, end)
            while True:
                async with asyncio.timeout_at(end if begun else first):
                    event = await anext(events)
                begun = True
                yield event
                if not isinstance(event, Delta):
                    return
        except TimeoutError:
            verb = "finish" if begun else "begin"
            limit_s = timeouts.request_s if begun else min(timeouts.first_token_s, timeouts.request_s)
            yield Refusal(504, "timeout", f"the model did not {verb} within {limit_s:g} s")
        except StopAsyncIteration:
            yield Refusal(500, "engine_error", "the model stopped without finishing its answer")
