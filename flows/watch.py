"""Flow `watch`: change detection on data, prompts, knowledge and settings since the last release run.

It only emits an event; an automation (deployments/prefect.yaml) turns the event into a run of `release`.
A run that has not begun will read all changes until it does, so while one waits no event is emitted:
any number of changes during a run leads to exactly one more. A run that died (killed, out of
memory) has released nothing, so its changes are announced again; if the next one dies too, a person has to act.
An event that led to no run (its server was killed) is emitted again. The flow runs every few minutes, so it
imports no heavy modules.
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
"""Seconds after which an event without a run counts as lost; usually the run is created within seconds."""
NOT_BEGUN = ("SCHEDULED", "PENDING")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


@flow(name="watch", log_prints=True)
def watch() -> State:
    """Announce all changes as one event `graft.data.changed`, but not while a file is being written."""
    if not settled(time.time()):
        return Completed(name="Waiting", message="a watched file was written a moment ago")
    hashes = watched_hashes()
    api = PrefectApi.of_stack()
    release = api.deployment(RELEASE, RELEASE)["id"]
    if _lost(api, release, time.time()):
        forget_announced()
    changed = [*unannounced(hashes), *_died(api, release)]
    if not changed:
        return Completed(name="Unchanged", message="no change in data, prompts, knowledge or settings")
    if waiting := api.runs(NOT_BEGUN, release):
        return Completed(
            name="Queued", message=f"run {waiting[0]['name']} has not begun yet, so it will read the change"
        )
    api.emit(EVENT, RESOURCE, {"changed": changed})
    announced(hashes)  # only now, so that an event that the server did not accept is sent again
    return Completed(name="Announced", message=", ".join(changed))


def _lost(api: PrefectApi, release: str, now: float) -> bool:
    """Whether an event was sent more than `LOST_S` ago, and no release run has been created since."""
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
