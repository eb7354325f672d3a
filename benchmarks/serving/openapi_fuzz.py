"""Requests made up from the service's own OpenAPI document, and how many of them it failed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

EXAMPLES = 25
"""For each operation, of bodies that the document allows and of bodies that it does not."""
_TIMEOUT_S = 180.0


def server_errors(url: str, embedding: str | None) -> int:
    """Answers with a status of 500 and more, but for those that say in OpenAI's shape that they can't now (503, 504).

    Args:
        url: where the service's `/openapi.json` lies.
        embedding: the name of the retrieval model, if one is served.
    """
    document: Any = schemathesis.openapi.from_url(url + "/openapi.json", timeout=_TIMEOUT_S)
    seen: Counter[str] = Counter()
    failed: list[str] = []
    for operation in document.get_all_operations():
        for mode in GenerationMode:
            if mode is GenerationMode.POSITIVE or operation.ok().body:
                _try(operation.ok(), mode, embedding, seen, failed)
    for what in failed[:5]:
        print(f"server error: {what}", flush=True)
    print(f"fuzz: {seen.total()} requests, {len(failed)} server errors; {dict(sorted(seen.items()))}", flush=True)
    return len(failed)


def _try(operation: Any, mode: GenerationMode, embedding: str | None, seen: Counter[str], failed: list[str]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            # A made-up name would be 404 before anything else is looked at.
            case.body["model"] = (embedding or "none") if case.path == "/v1/embeddings" else "production"
        where = f"{case.method} {case.path}"
        try:
            answer = case.call(timeout=_TIMEOUT_S)
        except OSError as error:  # what requests raises when the connection breaks
            seen[f"{where} broken off"] += 1
            failed.append(f"{where} {error!r}: {case.body!r:.500}")
            return
        seen[f"{where} {answer.status_code}"] += 1
        if answer.status_code >= 500 and not _honest(answer):
            failed.append(f"{where} {answer.status_code} {answer.text[:300]}: {case.body!r:.500}")

    ask()


def _honest(answer: Any) -> bool:
    try:
        return answer.status_code in (503, 504) and bool(answer.json()["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return False
