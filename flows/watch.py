"""Flow `watch`: have data, prompts, articles or settings changed since a release run last looked? Then say so, once.

It only speaks: an automation (deployments/prefect.yaml) makes the event into a run of `release`.
A run that has not begun will see all that changes until it does, so while one waits nothing is said:
however much changes during a run, it leads to exactly one more. A run that died (killed, out of
memory) has seen to nothing, so its changes are announced again; if the next one dies too, it is
left to a person. An event that led to no run (its server was killed) is sent again. The watch runs
every few minutes, so it imports nothing heavy.
"""

from __future__ import annotations

import time
from datetime import datetime

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from deployments.stack.prefect_api import OPEN_STATES, PrefectApi
from tasks.monitoring.change_detection import (
    announced,
    announced_at,
    forget_announced,
    settled,
    unannounced,
    watched_hashes,
)

EVENT = "graft.data.changed"
RESOURCE = "graft.data"
RELEASE = "release"
LOST_S = 300.0
"""From event to run it takes seconds; after this there will be none."""
NOT_BEGUN = ("SCHEDULED", "PENDING")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


@flow(name="watch", log_prints=True)
def watch() -> State:
    """Announce what changed as one event `graft.data.changed`; a file being written waits."""
    if not settled(time.time()):
        return Completed(name="Waiting", message="a watched file was written a moment ago")
    found = watched_hashes()
    api = PrefectApi.of_stack()
    release = api.deployment(RELEASE, RELEASE)["id"]
    if _lost(api, release, time.time()):
        forget_announced()
    changed = [*unannounced(found), *_died(api, release)]
    if not changed:
        return Completed(name="Unchanged", message="nothing new in what the assistant is made from")
    if waiting := api.runs(NOT_BEGUN, release):
        return Completed(
            name="Queued", message=f"run {waiting[0]['name']} has not begun yet, so it will see the change"
        )
    api.emit(EVENT, RESOURCE, {"changed": changed})
    announced(found)  # only now: an event that the server did not take is tried again
    return Completed(name="Announced", message=", ".join(changed))


def _lost(api: PrefectApi, release: str, now: float) -> bool:
    """Whether an event was sent a while ago, and no release run has come into being since."""
    sent = announced_at()
    if sent is None or now - sent < LOST_S:
        return False
    created = (datetime.fromisoformat(run["created"]).timestamp() for run in api.runs((*OPEN_STATES, *ENDED), release))
    return all(at < sent for at in created)


def _died(api: PrefectApi, release: str) -> list[str]:
    """The last release run by name if it died, unless the one before it died too or another is under way."""
    if api.runs(("RUNNING", "PAUSED", "CANCELLING"), release):
        return []
    last = api.runs(ENDED, release)[-2:]
    died = [run["state_type"] == "CRASHED" for run in last]
    return [f"release run {last[-1]['name']} died"] if died and died[-1] and died != [True, True] else []
