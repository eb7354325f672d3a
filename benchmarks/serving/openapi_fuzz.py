"""OpenAPI fuzzing: requests generated from the service's own OpenAPI document, and its server errors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

EXAMPLES = 25
"""Number of requests for each operation with valid bodies, and as many with invalid ones."""
_TIMEOUT_S = 180.0


def server_errors(url: str, embedding: str | None) -> int:
    """The number of answers with status 500 or more, without temporary errors in OpenAI's format (503, 504).

    Args:
        url: URL of the service, without `/openapi.json`.
        embedding: name of the embedding model, if one is served.
    """
    document: Any = schemathesis.openapi.from_url(url + "/openapi.json", timeout=_TIMEOUT_S)
    seen: Counter[str] = Counter()
    failed: list[str] = []
    for operation in document.get_all_operations():
        for mode in GenerationMode:
            if mode is GenerationMode.POSITIVE or operation.ok().body:
                _try(operation.ok(), mode, embedding, seen, failed)
    for failure in failed[:5]:
        print(f"server error: {failure}", flush=True)
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
            # A random model name would be 404 before any other check.
            case.body["model"] = (embedding or "none") if case.path == "/v1/embeddings" else "production"
        where = f"{case.method} {case.path}"
        try:
            answer = case.call(timeout=_TIMEOUT_S)
        except OSError as error:  # raised by `requests` when the connection breaks
            seen[f"{where} disconnected"] += 1
            failed.append(f"{where} {error!r}: {case.body!r:.500}")
            return
        seen[f"{where} {answer.status_code}"] += 1
        if answer.status_code >= 500 and not _is_temporary(answer):
            failed.append(f"{where} {answer.status_code} {answer.text[:300]}: {case.body!r:.500}")

    ask()


def _is_temporary(answer: Any) -> bool:
    """Whether an answer is a temporary error in OpenAI's format."""
    try:
        return answer.status_code in (503, 504) and bool(answer.json()["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return False
