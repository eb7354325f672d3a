"""PII detection with Presidio's analyzer: this repository's recognizers, and no model.

Presidio's own recognizers are not used, because they misread order numbers and dates, and some need
the network. Its language pipeline is spaCy's blank one: nothing is downloaded, and names are not
found.

Presidio imports torch and transformers if they are installed, which takes seconds and some hundred
MB. So it is imported when a detector is constructed, not with this module.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, cast

from deployments.app.guardrails.pii import Detect
from tasks.core.errors import GraftError
from tasks.text.pii import FINDERS, PiiType, Span, settle

_LANGUAGE = "en"


def presidio_detector(kinds: frozenset[PiiType]) -> Detect:
    """A thread-safe detector of `kinds`.

    Raises:
        GraftError: Presidio is not installed.
    """
    if find_spec("presidio_analyzer") is None:
        raise GraftError(
            "params.yaml: guardrails.detector presidio needs Presidio: .venv/bin/pip install -e '.[presidio]'"
        )
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry

    registry = RecognizerRegistry(recognizers=[_recognizer(kind) for kind in sorted(kinds)])
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=_blank(), supported_languages=[_LANGUAGE])

    def detect(text: str) -> tuple[Span, ...]:
        results = analyzer.analyze(text, language=_LANGUAGE)
        return settle(Span(result.start, result.end, cast(PiiType, result.entity_type)) for result in results)

    return detect


def _recognizer(kind: PiiType) -> Any:
    """One of this repository's finders as a Presidio recognizer."""
    from presidio_analyzer import LocalRecognizer, RecognizerResult

    class Recognizer(LocalRecognizer):
        def load(self) -> None:
            """No model to load."""

        def analyze(self, text: str, entities: list[str], nlp_artifacts: Any) -> list[Any]:
            return [RecognizerResult(kind, start, end, score=1.0) for start, end in FINDERS[kind](text)]

    return Recognizer(supported_entities=[kind], name=kind, supported_language=_LANGUAGE)


def _blank() -> Any:
    """A language pipeline that only tokenizes."""
    import spacy
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    engine: Any = SpacyNlpEngine(models=[{"lang_code": _LANGUAGE, "model_name": "blank"}])
    engine.nlp = {_LANGUAGE: spacy.blank(_LANGUAGE)}
    return engine
