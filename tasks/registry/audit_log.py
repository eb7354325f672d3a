"""Audit log: every action on a package with its author, stored in the registry so that it moves with the registry.

Swaps of a channel are the registry's own history, which names their authors, so none can be missing
here. Every other action on a package is an object of its own, written once and never changed.
"""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime
from typing import Literal

from tasks.core.records import Record
from tasks.core.settings import OwnerSettings
from tasks.registry.registry import Channel, Registry
from tasks.text.markdown import one_line

VARIABLE = "GRAFT_USER"
"""The environment variable that names the author of actions."""
UNKNOWN_ACTOR = "?"
"""The author of a swap that was recorded without one."""


class Entry(Record):
    """One entry of the audit log."""

    at: datetime
    """The time of the action, with a time zone."""
    who: str
    """The author of the action."""
    action: Literal["publish", "promote", "rollback", "approve", "reject", "override"]
    """The kind of action."""
    digest: str
    """The package that the action is about."""
    channel: str | None = None
    """The channel that was moved, or None if the action moved none."""
    reason: str
    """The author's reason."""
    run: str | None = None
    """The flow run in which it happened, or None outside of one."""


def actor() -> str:
    """The author of actions: the login name, or the name in `GRAFT_USER`, told as claimed by that login."""
    name, login = claimed_name(), _login()
    return login if name == login else claimed(name, login)


def claimed_name() -> str:
    """`GRAFT_USER` in the environment, else the login name."""
    return os.environ.get(VARIABLE) or _login()


def claimed(name: str, by: str = "") -> str:
    """A name that was not verified, as the log tells it; `by` is the login that entered it, if known."""
    return f"{name} (as claimed{f' by {by}' if by else ''})"


def _login() -> str:
    """The name of the user that this process runs as; it does not believe LOGNAME and USER in the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # the user of a container may have no name
        return f"uid {os.getuid()}"


def run_actor(run: str) -> str:
    """The author of the actions of a flow run."""
    return f"release run {run}"


def append_entry(
    registry: Registry,
    action: Literal["publish", "approve", "reject", "override"],
    digest: str,
    reason: str,
    who: str,
    run: str | None = None,
) -> None:
    """Record an action on a package. A package is published once, so only its first publication is kept.

    Args:
        registry: the registry of the package.
        action: the kind of action.
        digest: the package.
        reason: the author's reason.
        who: the author of the action.
        run: the flow run in which it happened, or None outside of one.

    Raises:
        GraftError: the registry does not answer.
    """
    entry = Entry(at=datetime.now(UTC), who=who, action=action, digest=digest, reason=reason, run=run)
    name = action if action == "publish" else f"{action}-{entry.at:%Y%m%dT%H%M%S.%fZ}"
    registry.store.write(f"audit/{digest}/{name}.json", (entry.model_dump_json(indent=2) + "\n").encode(), None)


def read_audit(registry: Registry, digest: str | None = None) -> list[Entry]:
    """The entries of the log, oldest first; with a digest those of this package alone."""
    objects = registry.store.read_all(f"audit/{digest}/" if digest else "audit/")
    entries = [
        *(Entry.model_validate_json(content) for content in objects),
        *(_entry_of_swap(swap) for swap in registry.history() if digest in (None, swap.digest)),
    ]
    return sorted(entries, key=lambda entry: entry.at)


def render(entries: list[Entry], owners: OwnerSettings) -> str:
    """The log as lines, newest first, and the owner of each layer."""
    lines = [line(entry) for entry in reversed(entries)] or ["no package was published yet; `graft run` publishes one"]
    owner_lines = [f"{layer:12} {owner}" for layer, owner in owners.model_dump().items()]
    return "\n".join([*lines, "", "Owners of the layers (owners in params.yaml):", *owner_lines])


def line(entry: Entry) -> str:
    """One entry as a line."""
    action = f"{entry.action} {entry.channel}" if entry.channel else entry.action
    run = f" (run {entry.run})" if entry.run and entry.run not in entry.who else ""
    text = f"{action:19}  {entry.digest[:12]}  {entry.who}{run}: {entry.reason}"
    return f"{entry.at:%Y-%m-%d %H:%M} UTC  {one_line(text)}"


def _entry_of_swap(swap: Channel) -> Entry:
    """The entry of a channel's swap, which has no author if it was recorded before there was an audit log."""
    act = swap.act
    return Entry(
        at=swap.at,
        who=act.who if act else UNKNOWN_ACTOR,
        action=act.action if act else "promote",
        digest=swap.digest,
        channel=swap.name,
        reason=swap.reason,
        run=act.run if act else None,
    )
