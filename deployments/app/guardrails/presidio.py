"""Presidio's analyser as a detector of personal data: this repository's recognisers, and no model.

Presidio's own recognisers are left out, because they take order numbers and dates for other
things, and some want the network. Its language pipeline is spaCy's blank one: nothing is
downloaded, and names are not found.

Presidio imports torch and transformers wherever they are installed: seconds, and some hundred MB.
So it is imported when a detector is made, not when this module is.
"""

from __future__ import annotations

from typing import Any, cast

from deployments.app.guardrails.pii import Detect
from tasks.text.pii import FINDERS, PiiType, Span, settle

_LANGUAGE = "en"


def presidio_detector(kinds: frozenset[PiiType]) -> Detect:
    """A detector of `kinds`, which any thread may call."""
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry

    registry = RecognizerRegistry(recognizers=[_recogniser(kind) for kind in sorted(kinds)])
    analyser = AnalyzerEngine(registry=registry, nlp_engine=_blank(), supported_languages=[_LANGUAGE])

    def detect(text: str) -> tuple[Span, ...]:
        results = analyser.analyze(text, language=_LANGUAGE)
        return settle(Span(result.start, result.end, cast(PiiType, result.entity_type)) for result in results)

    return detect


def _recogniser(kind: PiiType) -> Any:
    """One of this repository's finders in Presidio's clothes."""
    from presidio_analyzer import LocalRecognizer, RecognizerResult

    class Recogniser(LocalRecognizer):
        def load(self) -> None:
            """There is nothing to load."""

        def analyze(self, text: str, entities: list[str], nlp_artifacts: Any) -> list[Any]:
            return [RecognizerResult(kind, start, end, score=1.0) for start, end in FINDERS[kind](text)]

    return Recogniser(supported_entities=[kind], name=kind, supported_language=_LANGUAGE)


def _blank() -> Any:
    """A language pipeline that only splits words."""
    import spacy
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    engine: Any = SpacyNlpEngine(models=[{"lang_code": _LANGUAGE, "model_name": "blank"}])
    engine.nlp = {_LANGUAGE: spacy.blank(_LANGUAGE)}
    return engine
