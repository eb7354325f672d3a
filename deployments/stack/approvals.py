"""Approvals from the command line: a person's decision about the release run that waits for one."""

from __future__ import annotations

from deployments.stack.prefect_api import PrefectApi
from tasks.core.errors import GraftError

RELEASE = "release"


def decide(api: PrefectApi, *, approve: bool, by: str, reason: str) -> str:
    """Resume the paused release run with a decision, as the form on the run's page does.

    At most one release runs at a time (`flows/release_steps/single_run.py`), so at most one waits.

    Args:
        api: client of Prefect's server.
        approve: whether the package may go to production.
        by: name of the person, for the audit log.
        reason: reason of the decision, for the audit log.

    Returns:
        A sentence about what happens next.

    Raises:
        GraftError: no run waits, or Prefect does not accept the decision.
    """
    paused = api.runs(("PAUSED",), api.deployment(RELEASE, RELEASE)["id"])
    if not paused:
        raise GraftError("no release waits for an approval; `graft audit` lists the decisions so far")
    run = paused[0]
    api.resume(run["id"], {"approve": approve, "by": by, "reason": reason})
    outcome = "approved; it goes on" if approve else "rejected; it ends as Refused"
    return f"release run {run['name']}: {outcome}; {api.run_url(run['id'])}"
