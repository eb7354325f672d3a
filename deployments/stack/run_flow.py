"""Run a flow's deployment and follow its log until it ends, for `graft run` and `graft monitor`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from deployments.stack.prefect_api import OPEN_STATES, Json, PrefectApi
from tasks.core.errors import GraftError
from tasks.core.files import locked
from tasks.core.paths import RUN


def run_and_follow(api: PrefectApi, name: str, summary: str) -> None:
    """Start the deployment `name` (of the flow of that name), show its log, then its summary.

    Ctrl-C cancels the run.

    Args:
        api: client of Prefect's server.
        name: name of the flow and its deployment.
        summary: key of the artifact that is printed at the end.

    Raises:
        GraftError: a run is under way already, or the run failed; the message is the run's own.
    """
    run = begin(api, name)
    print(f"{name}: run {run['name']}, {api.run_url(run['id'])}", flush=True)
    try:
        finished = follow(api, run["id"], _print)
    except KeyboardInterrupt:
        api.set_state(run["id"], "CANCELLING", "Canceled from the terminal")
        _print(f"{name}: canceling run {run['name']}; press Ctrl-C again to stop waiting for it")
        finished = follow(api, run["id"], lambda _: None)
    if finished["state_type"] != "COMPLETED":
        state = finished["state"]
        raise GraftError(f"{name} ended {state['name']}: {state['message'] or 'see ' + api.run_url(run['id'])}")
    summaries = [a["data"] for a in api.artifacts(run["id"]) if a["key"] == summary]
    _print("\n" + (summaries[-1] if summaries else f"{name}: {finished['state']['message']}"))


def begin(api: PrefectApi, name: str) -> Json:
    """Create a run of a deployment.

    Raises:
        GraftError: a run of it is under way; nothing was started.
    """
    deployment = api.deployment(name, name)
    with locked(RUN / f"{name}.lock"):  # without the lock two processes would both find no run under way
        planned = api.runs(OPEN_STATES, deployment["id"])
        under_way = [run for run in planned if not (run["auto_scheduled"] and run["state_type"] == "SCHEDULED")]
        if under_way:
            other = under_way[0]
            raise GraftError(
                f"{name}: run {other['name']} is {other['state_name'].lower()} already; nothing was started; "
                f"wait for it, or cancel it at {api.run_url(other['id'])}"
            )
        return api.create_run(deployment["id"])


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


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
    """A log line with its local time; empty for a line that a person need not read.

    Prefect logs the final state of every task, which is shown only for a skipped step. The message of a
    failure is printed again at the end.
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
