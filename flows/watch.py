"""Flow `watch`: have data, prompts or articles changed since a release run last looked? Then say so, once.

It only speaks: an automation (deployments/prefect.yaml) makes the event into a run of `release`.
It runs every few minutes, so it imports nothing heavy.
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


@flow(name="watch", log_prints=True)
def watch() -> State:
    """Announce what changed as one event `graft.data.changed`; a file being written waits."""
    if not settled(time.time()):
        return Completed(name="Waiting", message="a watched file was written a moment ago")
    found = watched_hashes()
    changed = unannounced(found)
    if not changed:
        return Completed(name="Unchanged", message="nothing new in data/raw, data/prompts and data/knowledge")
    PrefectApi.of_stack().emit(EVENT, RESOURCE, {"files": changed})
    announced(found)  # only now: an event that the server did not take is tried again
    return Completed(name="Announced", message=", ".join(changed))
