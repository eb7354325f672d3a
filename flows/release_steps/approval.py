"""A person's word before a package answers everybody: the run pauses until it is given in Prefect's UI.

The run's page has a form (resume the paused run) beside the artifacts, the card among them. What was
said is kept in the run and in the audit log. Nobody's word counts as a no.
"""

from __future__ import annotations

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from tasks.core.errors import GraftError

KEY = "approval"


class Approval(RunInput):
    """What a person is asked."""

    approve: bool = Field(description="Whether this package may answer everybody.")
    by: str = Field(min_length=1, description="Who says so.")
    reason: str = Field(min_length=1, description="Why.")


def request_approval(question: str, hours: float) -> Approval:
    """Pause the running flow until somebody answers; `question` is Markdown. Called by the flow itself.

    Raises:
        GraftError: nobody did in so many hours.
    """
    form = Approval.with_initial_data(description=question)
    try:
        return pause_flow_run(wait_for_input=form, timeout=round(hours * 3600), key=KEY)
    except FlowPauseTimeout as error:
        raise GraftError(f"nobody approved the package in {hours:g} hours; production is unchanged") from error
