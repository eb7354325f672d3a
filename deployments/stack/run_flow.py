"""Ask for a run of a deployment and stay with it until it ends: what `graft run` and `graft monitor` do."""

from __future__ import annotations

import sys

from deployments.stack.follow import follow
from deployments.stack.prefect_api import OPEN_STATES, Json, PrefectApi
from tasks.core.errors import GraftError
from tasks.core.files import locked
from tasks.core.paths import RUN


def run_and_follow(api: PrefectApi, name: str, summary: str) -> None:
    """Start the deployment `name` (of the flow of that name), show its log, then its summary.

    Ctrl-C cancels the run.

    Args:
        summary: key of the artifact that is printed at the end.

    Raises:
        GraftError: one is under way already, or the run did not end well; the message is its own.
    """
    run = begin(api, name)
    print(f"{name}: run {run['name']}, {api.run_url(run['id'])}", flush=True)
    try:
        ended = follow(api, run["id"], _say)
    except KeyboardInterrupt:
        api.set_state(run["id"], "CANCELLING", "Cancelled from the terminal")
        _say(f"{name}: cancelling run {run['name']}; press Ctrl-C again to leave it to itself")
        ended = follow(api, run["id"], lambda _: None)
    if ended["state_type"] != "COMPLETED":
        state = ended["state"]
        raise GraftError(f"{name} ended {state['name']}: {state['message'] or 'see ' + api.run_url(run['id'])}")
    shown = [a["data"] for a in api.artifacts(run["id"]) if a["key"] == summary]
    _say("\n" + (shown[-1] if shown else f"{name}: {ended['state']['message']}"))


def begin(api: PrefectApi, name: str) -> Json:
    """A new run of a deployment.

    Raises:
        GraftError: a run of it is under way; nothing was started.
    """
    deployment = api.deployment(name, name)
    with locked(RUN / f"{name}.lock"):  # two at once would both find none under way
        planned = api.runs(OPEN_STATES, deployment["id"])
        under_way = [run for run in planned if not (run["auto_scheduled"] and run["state_type"] == "SCHEDULED")]
        if under_way:
            other = under_way[0]
            raise GraftError(
                f"{name}: run {other['name']} is {other['state_name'].lower()} already ({api.run_url(other['id'])}); "
                "wait for it or cancel it there; nothing was started"
            )
        return api.create_run(deployment["id"])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
