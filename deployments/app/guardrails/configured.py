"""Guardrail configuration: the checks of `params.yaml`, in the order in which they run."""

from __future__ import annotations

from functools import partial

from deployments.app.guardrails.checks import Check, Guardrails, OnFailure
from deployments.app.guardrails.output import DataLeakageCheck, LinkCheck, PromptLeakageCheck
from deployments.app.guardrails.pii import Detect, PiiCheck
from deployments.app.guardrails.presidio import presidio_detector
from deployments.app.guardrails.prompt_injection import IndirectInjectionCheck, PromptInjectionCheck
from tasks.core.settings import GuardrailSettings
from tasks.safety.injection_classifier import Classifier
from tasks.text.pii import CERTAIN, PiiType, find_spans


def configured_guardrails(settings: GuardrailSettings, classifier: Classifier | None) -> Guardrails:
    """The configured checks with the failure policy of each; without a classifier those that need none."""
    on_failure: dict[str, OnFailure] = {str(name): choice for name, choice in settings.on_failure.items()}
    return Guardrails(configured_checks(settings, classifier), on_failure)


def configured_checks(settings: GuardrailSettings, classifier: Classifier | None) -> tuple[Check, ...]:
    """The configured checks, without those that need a classifier if there is none.

    Constructing them loads models and data, so it is done once, before a process serves.
    """

    def detector(kinds: frozenset[PiiType]) -> Detect:
        return presidio_detector(kinds) if settings.detector == "presidio" else partial(find_spans, kinds=kinds)

    detect_pii = detector(frozenset(settings.redact))
    attacks = (PromptInjectionCheck(classifier), IndirectInjectionCheck(classifier)) if classifier else ()
    return (
        # First, so that no later check sees the personal data.
        PiiCheck(detect_pii, "before"),
        PiiCheck(detect_pii, "data"),
        *attacks,
        PromptLeakageCheck(settings.leaked_words),
        LinkCheck(settings.link_hosts),
        DataLeakageCheck(detector(CERTAIN)),
    )
