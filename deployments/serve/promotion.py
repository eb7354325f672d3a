"""Promotion and rollback of production: move the channel, then the endpoint, and move both back if that fails.

The release flow and the commands `graft promote` and `graft rollback` use the same functions;
`graft up` brings the endpoint to the channel's package. Whether a package may be released is decided elsewhere.
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
"""Lock of promotions: channel and endpoint are moved together, so two processes must not overlap."""


@dataclass(frozen=True)
class Switch:
    """A completed change of production."""

    before: str | None
    """Digest of the package before; None if there was none."""
    after: str
    """Digest of the package after."""
    seconds: dict[str, float]
    """Duration of each step, in seconds."""


def production_digest() -> str | None:
    """The digest to which the channel `production` points, if any."""
    channel = open_registry().channel(PRODUCTION)
    return channel.digest if channel else None


def serve_production() -> str | None:
    """Serve the package of the channel `production`, unless it is served already.

    Returns:
        None, or why that package cannot be served and how to repair it; the assistant is up in either case.

    Raises:
        GraftError: the registry does not answer, or the assistant does not come up.
    """
    with locked(LOCK):
        production = production_digest()
        if rollout.assistant_is_up() and rollout.served().production == production:
            return None
        print(f"production: deploying {production or 'the assistant, without a package yet'}", flush=True)
        rollout.redeploy(None)
        if production is None:
            return None
        try:
            rollout.redeploy(production)
        except GraftError as error:
            return (
                f"{production} is in production and cannot be served: {error}\n"
                "Fix the cause and run `graft up` again; or return to the previous package with "
                "`graft rollback --reason TEXT`; or release another one with `graft run`."
            )
        return None


def is_served(digest: str) -> bool:
    """Whether requests for `production` are answered by `digest`; False if Ray is down."""
    try:
        return rollout.served().production == digest
    except GraftError:
        return False


def move_production(digest: str, expected: str | None, reason: str, act: Act) -> None:
    """Move the channel, then the endpoint. The channel moves only from `expected` (compare-and-swap).

    Args:
        digest: the package that goes to production.
        expected: digest in production, as the caller last read it; None if there was none.
        reason: reason of the change, for the history.
        act: action and author, for the audit log.

    Raises:
        ChannelConflictError: another process moved the channel; nothing was changed.
        GraftError: the package is not in the registry or not deployed.
    """
    with locked(LOCK):
        if digest != expected:
            open_registry().swap(PRODUCTION, digest, expected, reason, act)
        rollout.promote(digest)


def roll_back(digest: str, production: str | None, cause: BaseException, reason: str, act: Act) -> NoReturn:
    """Restore channel and endpoint to the package before, and raise `cause` again.

    A first release whose endpoint could not be moved keeps its channel: there is no package to return
    to, and the next run only serves it.

    Args:
        digest: the package that failed.
        production: digest of the package before, if any.
        cause: the error that led to the rollback.
        reason: reason of the rollback, for the history.
        act: the act by which `digest` was promoted.

    Raises:
        GraftError: the rollback failed, too; the message has both errors.
    """
    try:
        rollout.reset_traffic()  # before anything that takes longer: all traffic goes to production from here on
        with locked(LOCK):
            now = _restore_channel(digest, production, reason, act)
            rollout.redeploy(now if now != digest else None)
        rollout.undeploy_unused(set())
    except GraftError as error:
        raise GraftError(f"{cause}\nThe rollback failed, too: {error}\nRun `graft up` again.") from cause
    raise cause


def _restore_channel(digest: str, production: str | None, reason: str, act: Act) -> str | None:
    """The channel's digest, after a return to `production` if `act` moved the channel to `digest`."""
    channel = open_registry().channel(PRODUCTION)
    if channel and channel.digest == digest and channel.act == act and production not in (None, digest):
        back = act.model_copy(update={"action": "rollback"})
        return open_registry().swap(PRODUCTION, str(production), digest, reason, back).digest
    return channel.digest if channel else None  # another one if another process moved it first


def switch_production(digest: str, production: str | None, reason: str, act: Act) -> Switch:
    """Deploy a published package, move production to it, and undeploy packages that are no longer needed.

    Args:
        digest: the package that goes to production.
        production: digest in production, as the caller read it when choosing; None if there was none.
        reason: reason of the change, for the history.
        act: action and author, for the audit log.

    Raises:
        GraftError: the stack is down, or the package is in production already: nothing was changed.
            Or the package did not start: production is unchanged.
    """
    require_stack()
    if digest == production and rollout.served().production == digest:
        raise GraftError(f"{digest} is in production already; nothing was changed")
    seconds: dict[str, float] = {}
    try:
        _timed(seconds, "deploy", lambda: rollout.deploy(digest))
        _timed(seconds, "promote", lambda: move_production(digest, production, reason, act))
    except BaseException as error:
        roll_back(digest, production, error, f"rolled back: {reason}", act)
    _timed(seconds, "retire", lambda: rollout.undeploy_unused(set()))
    return Switch(production, digest, seconds)


def require_stack() -> None:
    """Check that the stack is up, before anything is changed.

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


def describe(switch: Switch) -> str:
    """The change and the duration of each step, for a person."""
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in switch.seconds.items())
    duration = f"in {sum(switch.seconds.values()):.1f} s: {steps}"
    return f"production: {switch.before or 'none'}\n         -> {switch.after}\n{duration}"
