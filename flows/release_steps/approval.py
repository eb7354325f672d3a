"""Approval: a person's decision before a candidate goes to production; the run pauses until it is made in Prefect.

The run's page has a form (resume the paused run) beside the artifacts, the model card among them. The decision
is kept in the run and in the audit log. No decision before the timeout counts as a rejection.
"""

from __future__ import annotations

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from tasks.core.errors import GraftError

KEY = "approval"


class Approval(RunInput):
    """The form of the paused run, with the person's decision."""

    approve: bool = Field(description="Whether this package may go to production.")
    by: str = Field(min_length=1, max_length=100, description="Your name, for the audit log.")
    reason: str = Field(min_length=1, max_length=1000, description="Reason of the decision, for the audit log.")


def request_approval(question: str, hours: float) -> Approval:
    """Pause the running flow until a person decides; `question` is Markdown. The flow itself must call it.

    Raises:
        GraftError: there was no decision within `hours`.
    """
    form = Approval.with_initial_data(description=question)
    try:
        return pause_flow_run(wait_for_input=form, timeout=round(hours * 3600), key=KEY)
    except FlowPauseTimeout as error:
        raise GraftError(f"the package was not approved within {hours:g} hours; production is unchanged") from error
