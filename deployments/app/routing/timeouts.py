"""How long a turn may take, and what ends one that takes longer."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from deployments.core.messages import Delta, Events, Refusal
from tasks.core.settings import Section


class Timeouts(Section):
    """Timeouts of a turn."""

    first_token_s: float
    """Seconds to the first token of each route that is tried."""
    request_s: float
    """Seconds from a turn's arrival to its end."""


async def within(timeouts: Timeouts, arrived: float, events: Events) -> Events:
    """`events` until their last one, or a refusal in its place when the time is over.

    Args:
        timeouts: the first token's counts from now on, the whole turn's from `arrived`.
        arrived: by the event loop's clock.
        events: are closed at the end, whichever it is.
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
            what = "finish" if begun else "begin"
            limit_s = timeouts.request_s if begun else min(timeouts.first_token_s, timeouts.request_s)
            yield Refusal(504, "timeout", f"the model did not {what} within {limit_s:g} s")
        except StopAsyncIteration:
            yield Refusal(500, "engine_error", "the model stopped without finishing its answer")
