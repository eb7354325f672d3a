"""Flow `watch`: have data, prompts, articles or settings changed since a release run last looked? Then say so, once.

It only speaks: an automation (deployments/prefect.yaml) makes the event into a run of `release`.
A run that has not begun will see all that changes until it does, so while one waits nothing is said:
however much changes during a run, it leads to exactly one more. A run that died (killed, out of
memory) has seen to nothing, so its changes are announced again; if the next one dies too, it is
left to a person. The watch runs every few minutes, so it imports nothing heavy.
"""

from __future__ import annotations

import time

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.api import PrefectApi
from tasks.inputs import announced, settled, unannounced, watched_hashes

EVENT = "graft.data.changed"
RESOURCE = "graft.data"
RELEASE = "release"
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


def _died(api: PrefectApi, release: str) -> list[str]:
    """The last release run by name if it died, unless the one before it died too or another is under way."""
    if api.runs(("RUNNING", "PAUSED", "CANCELLING"), release):
        return []
    last = api.runs(ENDED, release)[-2:]
    died = [run["state_type"] == "CRASHED" for run in last]
    return [f"release run {last[-1]['name']} died"] if died and died[-1] and died != [True, True] else []
