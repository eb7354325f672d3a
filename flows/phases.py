"""The phases between trying a package out and giving it to everybody, with the guard behind each.

A phase is one atomic change of what the assistant serves. Then the guard looks after every interval:
healthy leads to the next phase, a breach opens an incident and ends the rollout, and so does a phase
that stays undecided for as long as there is patience. Whoever calls takes the package out again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from deployments import rollout
from flows.steps import cached, step
from tasks import guard
from tasks.arms import compared
from tasks.errors import GraftError
from tasks.guard import GuardVerdict
from tasks.incidents import open_incident
from tasks.phases import Phase
from tasks.registry import PRODUCTION
from tasks.settings import GuardSettings, Settings
from tasks.store import read_window

KEY = "guard"
_BEFORE = timedelta(hours=1)
"""What production answered in this time before a phase says what a slow answer is, and whether anybody asks."""


class BreachError(GraftError):
    """The package is worse than the one in production by more than is tolerated."""


class UndecidedError(GraftError):
    """Patience ended before the guard could tell."""


def go_through(phases: Sequence[Phase], digest: str, production: str | None, settings: Settings) -> None:
    """Take a deployed package through these phases, as steps of the running flow.

    Without a package in production there is nothing to compare with; without anybody who asks it
    there is nothing to compare, and `rollout.without_traffic` says whether that is enough.

    Raises:
        BreachError: it is worse in one of them; an incident is open.
        UndecidedError: too few asked for too long.
    """
    if production is None:
        reason: str | None = "nothing is in production yet, so there is nothing to compare with"
    else:
        reason = _nobody_asks(production, settings)
    for phase in phases:
        if reason or production is None:
            step(phase.label, lambda why: cached(why))(reason)
        else:
            step(phase.label, guarded)(phase, digest, production, settings.guard)


def guarded(phase: Phase, digest: str, production: str, settings: GuardSettings) -> State:
    """Enter a phase, and stay until the guard has decided."""
    if phase.percent is None:
        rollout.shadow(digest)
    else:
        rollout.canary(digest, phase.percent)
    start = datetime.now(UTC)
    print(f"{phase.label}: {digest} beside {production}; the guard looks every {settings.interval_s} s")
    while True:
        time.sleep(settings.interval_s)
        verdict = look(phase, digest, production, start, settings)
        create_markdown_artifact(markdown(phase, verdict), key=KEY, description=f"{phase.label}: {verdict.outcome}")
        print(f"{phase.label}: {verdict.outcome}: {verdict.sentences[0]}")
        if verdict.outcome == "healthy":
            return Completed(name="Healthy", message=verdict.sentences[0])
        if verdict.outcome == "breach":
            incident = open_incident(guard.report(verdict, PRODUCTION, phase.label), verdict.at)
            raise BreachError(f"{phase.label}: {verdict.sentences[0]} Incident {incident.id}; production is unchanged")
        if verdict.outcome == "inconclusive":
            raise UndecidedError(f"{phase.label}: {verdict.sentences[0]} Production is unchanged")


def look(phase: Phase, digest: str, production: str, start: datetime, settings: GuardSettings) -> GuardVerdict:
    """What the guard says now of a phase that began at `start`."""
    now = datetime.now(UTC)
    rows = read_window(start - _BEFORE, now)
    return guard.judge(rows, digest, production, start, now, settings, unseen=phase.percent is None)


def markdown(phase: Phase, verdict: GuardVerdict) -> str:
    """The verdict as a page."""
    lines = [
        f"# {phase.label}: {verdict.outcome}",
        "",
        f"Package `{verdict.canary}`, in production `{verdict.production}`",
    ]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in verdict.sentences)]) + "\n"


def _nobody_asks(production: str, settings: Settings) -> str | None:
    """Why the phases need not be gone through; None if they must."""
    now = datetime.now(UTC)
    asked = compared(read_window(now - _BEFORE, now), "", production, now - _BEFORE, 1)
    n = len(asked.production["errors"])
    if n > 0 or settings.rollout.without_traffic == "hold":
        return None
    return "nobody asked production anything in the last hour, so there is nothing to compare"
