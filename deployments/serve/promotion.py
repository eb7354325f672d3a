"""Moving production from one package to another: the channel, then the endpoint, and back where that fails.

The release flow and the commands `graft promote` and `graft rollback` move it by the same functions;
`graft up` brings the endpoint to where the channel points. Whether a package should be released is not decided here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from deployments.serve import rollout
from tasks.core.errors import GraftError
from tasks.core.files import locked
from tasks.core.paths import RUN
from tasks.registry.registry import PRODUCTION, Act, open_registry

LOCK = RUN / "promotion.lock"
"""Channel and endpoint are moved together: two who move them must not overlap."""


@dataclass(frozen=True)
class Switch:
    """A change of production that was done: from what (None: nothing) to what, and the seconds of each part."""

    before: str | None
    after: str
    seconds: dict[str, float]


def production_digest() -> str | None:
    """What the channel `production` points at."""
    channel = open_registry().channel(PRODUCTION)
    return channel.digest if channel else None


def serve_production() -> str | None:
    """Serve what the channel `production` points at, unless that is so already.

    Returns:
        None, or why that package cannot be served and what a person can do; the assistant is up even so.

    Raises:
        GraftError: the registry does not answer, or the assistant does not come up.
    """
    with locked(LOCK):
        production = production_digest()
        if rollout.assistant_is_up() and rollout.served().production == production:
            return None
        print(f"production: bringing up {production or 'the assistant, without a package yet'}", flush=True)
        rollout.redeploy(None)
        if production is None:
            return None
        try:
            rollout.redeploy(production)
        except GraftError as error:
            return (
                f"{production} is in production and cannot be served: {error}\n"
                "Put that right and run `graft up` again; or go back with `graft rollback --reason TEXT`, "
                "or replace it with `graft run`."
            )
        return None


def is_served(digest: str) -> bool:
    """Whether `digest` answers who asks for `production`; nothing does where Ray is down."""
    try:
        return rollout.served().production == digest
    except GraftError:
        return False


def move_production(digest: str, expected: str | None, reason: str, act: Act) -> None:
    """Move the channel, then the endpoint. The channel moves only if nobody moved it meanwhile.

    Raises:
        ChannelConflictError: somebody did; nothing was changed.
        GraftError: the package is not there or not deployed.
    """
    with locked(LOCK):
        if digest != expected:
            open_registry().swap(PRODUCTION, digest, expected, reason, act)
        rollout.promote(digest)


def roll_back(digest: str, production: str | None, cause: BaseException, reason: str, act: Act) -> NoReturn:
    """Put channel and endpoint back to what they were, and raise `cause` again.

    A first release whose endpoint could not be moved keeps its channel: there is nothing to go back
    to, and the next run only serves it.
    """
    try:
        rollout.reset_traffic()  # before anything that takes longer: from here on everybody is answered by production
        with locked(LOCK):
            now = _restore_channel(digest, production, reason, act)
            rollout.redeploy(now if now != digest else None)
        rollout.undeploy_unused(set())
    except GraftError as error:
        raise GraftError(f"{cause}\nTaking it out did not work either: {error}\nRun `graft up` again.") from cause
    raise cause


def _restore_channel(digest: str, production: str | None, reason: str, act: Act) -> str | None:
    """What the channel names, after it went back to `production` if it was `act` that moved it to `digest`."""
    channel = open_registry().channel(PRODUCTION)
    if channel and channel.digest == digest and channel.act == act and production not in (None, digest):
        back = act.model_copy(update={"action": "rollback"})
        return open_registry().swap(PRODUCTION, str(production), digest, reason, back).digest
    return channel.digest if channel else None  # another one where somebody else moved it first


def switch_production(digest: str, production: str | None, reason: str, act: Act) -> Switch:
    """Bring up a published package, move production to it and stop what is not needed any more.

    Args:
        production: what is in production now, as the caller saw it when he chose.

    Raises:
        GraftError: the stack is down, or the package is in production already: nothing was changed.
            Or it did not come up: production is what it was.
    """
    require_stack()
    if digest == production and rollout.served().production == digest:
        raise GraftError(f"{digest} is in production already; nothing was changed")
    seconds: dict[str, float] = {}
    try:
        _timed(seconds, "deploy", lambda: rollout.deploy(digest))
        _timed(seconds, "promote", lambda: move_production(digest, production, reason, act))
    except BaseException as error:
        roll_back(digest, production, error, f"taken back: {reason}", act)
    _timed(seconds, "retire", lambda: rollout.undeploy_unused(set()))
    return Switch(production, digest, seconds)


def require_stack() -> None:
    """Say that the stack is down, before anything is changed.

    Raises:
        GraftError: Ray does not answer.
    """
    try:
        rollout.served()
    except GraftError as error:
        raise GraftError(f"nothing was changed: {error}") from error


def _timed(seconds: dict[str, float], name: str, do: Callable[[], None]) -> None:
    start = time.monotonic()
    do()
    seconds[name] = time.monotonic() - start


def describe(moved: Switch) -> str:
    """What was done, and how long each part of it took."""
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in moved.seconds.items())
    whole = f"in {sum(moved.seconds.values()):.1f} s: {parts}"
    return f"production: {moved.before or 'nothing'}\n         -> {moved.after}\n{whole}"
