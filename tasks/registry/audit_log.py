"""The audit log: who did what with which package, kept in the registry so that it travels with it.

Swaps of a channel are the registry's own history, which says who made them, so none can be missing
here. What else is done with a package is written as an object of its own, once, and never changed.
"""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime
from typing import Literal

from tasks.core.records import Record
from tasks.core.settings import OwnerSettings
from tasks.registry.registry import Channel, Registry

VARIABLE = "GRAFT_USER"
UNKNOWN_ACTOR = "?"
"""Who made a swap that was written down without saying so."""


class Entry(Record):
    """One line of the log. `channel` is that which was moved, if one was; `run` the flow run, if in one."""

    at: datetime
    who: str
    action: Literal["publish", "promote", "rollback", "approve", "reject", "override"]
    digest: str
    channel: str | None = None
    reason: str
    run: str | None = None


def actor() -> str:
    """Who acts: `GRAFT_USER` in the environment, else the login name, else the user's number."""
    try:
        return os.environ.get(VARIABLE) or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def run_actor(run: str) -> str:
    """Who acts in a flow run."""
    return f"release run {run}"


def append_entry(
    registry: Registry,
    action: Literal["publish", "approve", "reject", "override"],
    digest: str,
    reason: str,
    who: str,
    run: str | None = None,
) -> None:
    """Write down what was done with a package. A package is published once, so only the first time is kept.

    Raises:
        GraftError: the registry does not answer.
    """
    entry = Entry(at=datetime.now(UTC), who=who, action=action, digest=digest, reason=reason, run=run)
    name = action if action == "publish" else f"{action}-{entry.at:%Y%m%dT%H%M%S.%fZ}"
    registry.store.write(f"audit/{digest}/{name}.json", (entry.model_dump_json(indent=2) + "\n").encode(), None)


def read_audit(registry: Registry, digest: str | None = None) -> list[Entry]:
    """The log, oldest first; of one package alone if it is named."""
    objects = registry.store.read_all(f"audit/{digest}/" if digest else "audit/")
    entries = [
        *(Entry.model_validate_json(content) for content in objects),
        *(_entry_of_swap(swap) for swap in registry.history() if digest in (None, swap.digest)),
    ]
    return sorted(entries, key=lambda entry: entry.at)


def render(entries: list[Entry], owners: OwnerSettings) -> str:
    """The log as lines, newest first, and who answers for which layer."""
    lines = [line(entry) for entry in reversed(entries)] or ["nothing was published yet; `graft run` does that"]
    owner_lines = [f"{layer:12} {owner}" for layer, owner in owners.model_dump().items()]
    return "\n".join([*lines, "", "Who answers for what (owners in params.yaml):", *owner_lines])


def line(entry: Entry) -> str:
    """One entry as a line."""
    action = f"{entry.action} {entry.channel}" if entry.channel else entry.action
    run = f" (run {entry.run})" if entry.run and entry.run not in entry.who else ""
    return f"{entry.at:%Y-%m-%d %H:%M} UTC  {action:19}  {entry.digest[:12]}  {entry.who}{run}: {entry.reason}"


def _entry_of_swap(swap: Channel) -> Entry:
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
