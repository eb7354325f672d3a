"""Flow `watch`: has `data/raw` changed since a release run last looked at it? Then say so, once.

It only speaks: an automation (deployments/prefect.yaml) makes the event into a run of `release`.
It runs every few minutes, so it imports nothing heavy.
"""

from __future__ import annotations

import time

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.api import PrefectApi
from tasks.inputs import announced, raw_hashes, settled, unannounced

EVENT = "graft.data.changed"
RESOURCE = "graft.data.raw"


@flow(name="watch", log_prints=True)
def watch() -> State:
    """Announce a change of `data/raw` as the event `graft.data.changed`; a file being written waits."""
    if not settled(time.time()):
        return Completed(name="Waiting", message="a file in data/raw was written a moment ago")
    raw = raw_hashes()
    changed = unannounced(raw)
    if not changed:
        return Completed(name="Unchanged", message="data/raw: nothing new")
    PrefectApi.of_stack().emit(EVENT, RESOURCE, {"files": changed})
    announced(raw)  # only now: an event that the server did not take is tried again
    return Completed(name="Announced", message=f"data/raw: {', '.join(changed)}")
