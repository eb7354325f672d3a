"""Follow a flow run from the terminal: its log as it is written, and how it ended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from deployments.stack.prefect_api import OPEN_STATES, Json, PrefectApi

_POLL_S = 1.0
_NOT_SHOWN = ("prefect.flow_runs.worker", "prefect.runner", "prefect.engine")
_ENDED = ("Finished in state ", "Task run failed with state: ")
_CACHED = re.compile(r"Finished in state Cached\((?:message=)?['\"](?P<reason>.*)['\"], type=COMPLETED\)", re.DOTALL)
_LATE_S = 15.0  # lines are sent in batches, so an older one may arrive after a newer one


def follow(api: PrefectApi, run_id: str, write: Callable[[str], None]) -> Json:
    """Write the run's log lines until it has ended; return the run."""
    seen: set[str] = set()
    since: str | None = None
    while True:
        run = api.run(run_id)  # before the log, so that the last lines are read after the end
        ended = run["state_type"] not in OPEN_STATES
        time.sleep(_POLL_S)
        for line in api.logs(run_id, since):
            if line["id"] not in seen:
                seen.add(line["id"])
                since = _earlier(line["timestamp"])
                if text := render(line):
                    write(text)
        if ended:
            return run


def _earlier(timestamp: str) -> str:
    return (datetime.fromisoformat(timestamp) - timedelta(seconds=_LATE_S)).isoformat()


def render(line: Json) -> str:
    """A log line with the local time it was written; empty for what a person need not read.

    Prefect says of every task how it ended: worth a line only where there was nothing to do. A
    failure's message comes once more at the end.
    """
    text = line["message"]
    if line["name"].startswith(_NOT_SHOWN):
        return ""
    if text.startswith(_ENDED):
        match = _CACHED.match(text)
        if not match:
            return ""
        text = match["reason"]
    at = datetime.fromisoformat(line["timestamp"]).astimezone()
    return f"{at:%H:%M:%S}  {text}"
