"""The checks that `params.yaml` asks for, in the order in which they run."""

from __future__ import annotations

from functools import partial

from deployments.app.safety.checks import Check, OnFailure, Safety
from deployments.app.safety.injection import InjectionCheck, PoisonCheck
from deployments.app.safety.output import InstructionsCheck, LinksCheck, OthersDataCheck
from deployments.app.safety.personal import Detect, PersonalCheck
from deployments.app.safety.presidio import presidio_detector
from tasks.classifier import Classifier
from tasks.personal import CERTAIN, Kind, find_spans
from tasks.settings import SafetySettings


def configured_safety(settings: SafetySettings, classifier: Classifier | None) -> Safety:
    """The checks with what each one's failure means."""
    on_failure: dict[str, OnFailure] = {str(name): choice for name, choice in settings.on_failure.items()}
    return Safety(configured_checks(settings, classifier), on_failure)


def configured_checks(settings: SafetySettings, classifier: Classifier | None) -> tuple[Check, ...]:
    """All checks, without those that need a classifier if there is none.

    Making them loads what they need, so it is done once, before a process serves.
    """

    def detector(kinds: frozenset[Kind]) -> Detect:
        return presidio_detector(kinds) if settings.detector == "presidio" else partial(find_spans, kinds=kinds)

    hidden = detector(frozenset(settings.redact))
    attacks = (InjectionCheck(classifier), PoisonCheck(classifier)) if classifier else ()
    return (
        # First, so that no check after it has the data either.
        PersonalCheck(hidden, "before"),
        PersonalCheck(hidden, "data"),
        *attacks,
        InstructionsCheck(settings.leaked_words),
        LinksCheck(settings.link_hosts),
        OthersDataCheck(detector(CERTAIN)),
    )
