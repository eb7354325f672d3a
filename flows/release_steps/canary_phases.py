"""Canary phases: the rollout phases between smoke test and production, each with automated canary analysis.

A phase begins with one atomic change of the assistant's routing. Then canary analysis runs after every interval:
healthy leads to the next phase, a breach opens an incident and ends the rollout, and a phase that is
inconclusive at its timeout ends the rollout, too. The caller is responsible for the rollback.
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
from tasks.text.markdown import escape

KEY = "guard"
_BEFORE = timedelta(hours=1)
"""Time before a phase whose answers of production determine what is slow, and whether there is traffic."""


class BreachError(GraftError):
    """The candidate is worse than production by more than a margin."""


class UndecidedError(GraftError):
    """Canary analysis was inconclusive at the timeout."""


def go_through(phases: Sequence[Phase], digest: str, production: str | None, settings: Settings) -> None:
    """Take a deployed package through rollout phases, as steps of the running flow.

    Without a package in production, or with one that cannot be served, there is nothing to compare with, and the
    phases are skipped; without traffic they are skipped too, if `rollout.without_traffic` allows it.

    Args:
        phases: the phases, in order.
        digest: the candidate.
        production: digest of the package in production, if any.
        settings: rollout and canary analysis.

    Raises:
        BreachError: the candidate is worse in one of the phases; an incident is open.
        UndecidedError: a phase was inconclusive at its timeout.
    """
    reason = _skip_reason(production, settings)
    first_token_s = load_serve_settings().fallback.first_token_s
    for phase in phases:
        if reason or production is None:
            step(phase.label, cached)(f"{phase.label}: skipped, because {reason}")
        else:
            step(phase.label, run_phase)(phase, digest, production, settings.canary_analysis, first_token_s)


def run_phase(
    phase: Phase, digest: str, production: str, settings: CanaryAnalysisSettings, first_token_s: float
) -> State:
    """Enter a phase, and stay until canary analysis has decided.

    Args:
        phase: the phase.
        digest: the candidate.
        production: digest of the package in production.
        settings: margins, interval and timeout.
        first_token_s: deadline of the first token, in seconds.

    Raises:
        BreachError: the candidate is worse; an incident is open.
        UndecidedError: the analysis was inconclusive at the timeout.
        GraftError: the routing was changed meanwhile.
    """
    if phase.percent is None:
        rollout.shadow(digest)
    else:
        rollout.canary(digest, phase.percent)
    start = datetime.now(UTC)
    print(f"{phase.label}: {digest} beside {production}; canary analysis every {settings.interval_s} s")
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
            rollout.reset_traffic()  # before anything that takes time
        create_markdown_artifact(
            markdown(phase, verdict, rows), key=KEY, description=f"{phase.label}: {verdict.outcome}"
        )
        print(f"{phase.label}: {verdict.outcome}: {verdict.sentences[0]}")
        if verdict.outcome == "healthy":
            return Completed(name="Healthy", message=verdict.sentences[0])
        if verdict.outcome == "breach":
            incident = open_incident(canary_analysis.incident_report(verdict, PRODUCTION, phase.label), verdict.at)
            reason = f"{phase.label}: {verdict.sentences[0]} Production is unchanged."
            raise BreachError(f"{reason} Incident {incident.id} is open, see `graft incidents`")
        if verdict.outcome == "inconclusive":
            raise UndecidedError(f"{phase.label}: {verdict.sentences[0]} Production is unchanged")


def require_route(phase: Phase, digest: str, production: str) -> None:
    """Check that the routing is still that of the phase.

    Raises:
        GraftError: production was changed meanwhile, or Ray was restarted.
    """
    routing = rollout.served()
    beside = routing.canary.digest if phase.percent and routing.canary else routing.shadow
    if (routing.production, beside) != (production, digest):
        raise GraftError(
            f"{phase.label}: {digest} is no longer served beside {production}; "
            f"production is now {routing.production}; run the release again"
        )


def markdown(phase: Phase, verdict: CanaryVerdict, rows: pd.DataFrame) -> str:
    """The verdict as a Markdown page; for a shadow also the agreement of its answers with production's.

    The agreement has no influence on the verdict.
    """
    lines = [
        f"# {phase.label}: {verdict.outcome}",
        "",
        f"Package `{verdict.canary}`, in production `{verdict.production}`",
        "",
        *(f"- {escape(sentence)}" for sentence in verdict.sentences),
    ]
    if phase.percent is None:
        pairs = shadow_pairs(rows, verdict.canary, verdict.production, verdict.start)
        lines += ["", "| agreement with production |  |", "| --- | ---: |"]
        lines += [
            f"| {name.replace('_', ' ')} | {value:.3g} |" for name, value in agreement(pairs) if value is not None
        ]
    return "\n".join(lines) + "\n"


def _skip_reason(production: str | None, settings: Settings) -> str | None:
    """The reason to skip the phases; None if they must run."""
    if production is None:
        return "no package is in production yet to compare with"
    if serve_production():
        return "the package in production cannot be served; `graft up` shows why"
    now = datetime.now(UTC)
    traffic = has_traffic(read_window(now - _BEFORE, now), production)
    if traffic or settings.rollout.without_traffic == "hold":
        return None
    return "production had no traffic in the last hour"
