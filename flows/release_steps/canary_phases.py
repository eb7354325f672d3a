"""The phases between trying a package out and giving it to everybody, with the guard behind each.

A phase is one atomic change of what the assistant serves. Then the guard looks after every interval:
healthy leads to the next phase, a breach opens an incident and ends the rollout, and so does a phase
that is undecided until its timeout. Whoever calls takes the package out again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pandas as pd
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from deployments.core.settings import load_serve_settings
from deployments.serve import rollout
from deployments.serve.promotion import serve_production
from flows.release_steps.step import cached, step
from tasks.core.errors import GraftError
from tasks.core.rollout_phases import Phase
from tasks.core.settings import CanaryAnalysisSettings, Settings
from tasks.monitoring.telemetry_store import read_window
from tasks.registry.registry import PRODUCTION
from tasks.rollout import canary_analysis
from tasks.rollout.canary_analysis import CanaryVerdict
from tasks.rollout.canary_metrics import has_traffic, shadow_pairs
from tasks.rollout.incidents import open_incident
from tasks.rollout.shadow_comparison import agreement

KEY = "guard"
_BEFORE = timedelta(hours=1)
"""What production answered in this time before a phase says what a slow answer is, and whether anybody asks."""


class BreachError(GraftError):
    """The package is worse than the one in production by more than is tolerated."""


class UndecidedError(GraftError):
    """Patience ended before the guard could tell."""


def go_through(phases: Sequence[Phase], digest: str, production: str | None, settings: Settings) -> None:
    """Take a deployed package through these phases, as steps of the running flow.

    Without a package in production, or with one that cannot be served, there is nothing to compare with;
    without anybody who asks it there is nothing to compare, and `rollout.without_traffic` says whether
    that is enough.

    Raises:
        BreachError: it is worse in one of them; an incident is open.
        UndecidedError: too few asked for too long.
    """
    reason = _nothing_to_compare(production, settings)
    first_token_s = load_serve_settings().fallback.first_token_s
    for phase in phases:
        if reason or production is None:
            step(phase.label, lambda why: cached(why))(reason)
        else:
            step(phase.label, run_phase)(phase, digest, production, settings.canary_analysis, first_token_s)


def run_phase(
    phase: Phase, digest: str, production: str, settings: CanaryAnalysisSettings, first_token_s: float
) -> State:
    """Enter a phase, and stay until the guard has decided; an answer has to begin within `first_token_s` seconds."""
    if phase.percent is None:
        rollout.shadow(digest)
    else:
        rollout.canary(digest, phase.percent)
    start = datetime.now(UTC)
    print(f"{phase.label}: {digest} beside {production}; the guard looks every {settings.interval_s} s")
    while True:
        time.sleep(settings.interval_s)
        require_route(phase, digest, production)
        now = datetime.now(UTC)
        rows = read_window(start - _BEFORE, now)
        unseen = phase.percent is None
        verdict = canary_analysis.analyze_canary(
            rows, digest, production, start, now, settings, first_token_s=first_token_s, unseen=unseen
        )
        if verdict.outcome == "breach":
            rollout.reset_traffic()  # before anything is told
        create_markdown_artifact(
            markdown(phase, verdict, rows), key=KEY, description=f"{phase.label}: {verdict.outcome}"
        )
        print(f"{phase.label}: {verdict.outcome}: {verdict.sentences[0]}")
        if verdict.outcome == "healthy":
            return Completed(name="Healthy", message=verdict.sentences[0])
        if verdict.outcome == "breach":
            incident = open_incident(canary_analysis.incident_report(verdict, PRODUCTION, phase.label), verdict.at)
            told = f"{phase.label}: {verdict.sentences[0]} Production is unchanged."
            raise BreachError(f"{told} Incident {incident.id} is open, see `graft incidents`")
        if verdict.outcome == "inconclusive":
            raise UndecidedError(f"{phase.label}: {verdict.sentences[0]} Production is unchanged")


def require_route(phase: Phase, digest: str, production: str) -> None:
    """Check that both packages are still where the phase put them.

    Raises:
        GraftError: somebody moved production meanwhile, or Ray was started anew.
    """
    routing = rollout.served()
    beside = routing.canary.digest if phase.percent and routing.canary else routing.shadow
    if (routing.production, beside) != (production, digest):
        raise GraftError(
            f"{phase.label}: {digest} does not stand beside {production} any more, "
            f"production is {routing.production}; run the release again"
        )


def markdown(phase: Phase, verdict: CanaryVerdict, rows: pd.DataFrame) -> str:
    """The verdict as a page; of a shadow also how far its answers agree with production's, which decides nothing."""
    lines = [
        f"# {phase.label}: {verdict.outcome}",
        "",
        f"Package `{verdict.canary}`, in production `{verdict.production}`",
        "",
        *(f"- {sentence}" for sentence in verdict.sentences),
    ]
    if phase.percent is None:
        pairs = shadow_pairs(rows, verdict.canary, verdict.production, verdict.start)
        lines += ["", "| its answers and production's |  |", "| --- | ---: |"]
        lines += [
            f"| {name.replace('_', ' ')} | {value:.3g} |" for name, value in agreement(pairs) if value is not None
        ]
    return "\n".join(lines) + "\n"


def _nothing_to_compare(production: str | None, settings: Settings) -> str | None:
    """Why the phases need not be gone through; None if they must."""
    if production is None:
        return "nothing is in production yet, so there is nothing to compare with"
    if serve_production():
        return "what is in production cannot be served (`graft up` says why), so there is nothing to compare with"
    now = datetime.now(UTC)
    asked = has_traffic(read_window(now - _BEFORE, now), production)
    if asked or settings.rollout.without_traffic == "hold":
        return None
    return "nobody asked production anything in the last hour, so there is nothing to compare"
