"""The checks that `params.yaml` asks for, in the order in which they run."""

from __future__ import annotations

from functools import partial

from deployments.app.guardrails.checks import Check, OnFailure, Safety
from deployments.app.guardrails.output import InstructionsCheck, LinksCheck, OthersDataCheck
from deployments.app.guardrails.pii import Detect, PersonalCheck
from deployments.app.guardrails.presidio import presidio_detector
from deployments.app.guardrails.prompt_injection import InjectionCheck, PoisonCheck
from tasks.core.settings import GuardrailSettings
from tasks.safety.injection_classifier import Classifier
from tasks.text.pii import CERTAIN, Kind, find_spans


def configured_safety(settings: GuardrailSettings, classifier: Classifier | None) -> Safety:
    """The checks with what each one's failure means."""
    on_failure: dict[str, OnFailure] = {str(name): choice for name, choice in settings.on_failure.items()}
    return Safety(configured_checks(settings, classifier), on_failure)


def configured_checks(settings: GuardrailSettings, classifier: Classifier | None) -> tuple[Check, ...]:
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
