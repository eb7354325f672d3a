"""The page of the HTTP API: paths and bodies from the OpenAPI document, errors and headers from the source."""

from __future__ import annotations

from typing import Any, cast

from fastapi.testclient import TestClient

from deployments.app.embeddings import EmbeddingService
from deployments.app.routes import create_app
from deployments.app.turn import ChatService
from docs.generators import http_source
from docs.generators.markdown import code, prose, sections, table
from docs.generators.schema import Schema, alternatives, reference, type_text
from docs.generators.source import UndescribedError

INTRODUCTION = """
# HTTP API

The service speaks OpenAI's API at `http://HOST:PORT` of the section `http` of `deployments/serve.yaml`; OpenAI's
clients take `http://HOST:PORT/v1` as their base URL. `GET /openapi.json` is the same description for programs.
[Serving](../explanation/serving.md) explains the order of the steps behind it.

Fields that would change an answer and are not supported are refused; `null` always means that a field is absent.
"""
REQUEST_HEADERS = {
    "authorization": "`Bearer KEY`; required where `GRAFT_API_KEYS` names keys.",
    "cache-control": "`no-cache` bypasses the answer cache; of chat and completions.",
    "content-type": "`application/json`; of requests with a body.",
    "idempotency-key": "A chat that is sent again with the same value repeats no tool's effect.",
}
RESPONSE_HEADERS = {
    "cache-control": "`no-cache`, of a stream.",
    "retry-after": "Seconds after which a retry is useful.",
    "www-authenticate": "`Bearer`, with status 401.",
    "x-accel-buffering": "`no`, of a stream, so that proxies pass it on at once.",
    "x-graft-cache": "Result of the cache lookup: `hit`, `semantic`, `miss` or `off`.",
    "x-graft-fallback": "Routes that were skipped before, each with its reason.",
    "x-graft-retries": "Attempts on the route after the first.",
    "x-graft-route": "Route that answered: `canary`, `production`, `previous`, `words` or `digest`.",
    "x-graft-trace-id": "Id of the request, as in its telemetry row.",
    "x-ratelimit-limit-": "Limit per minute, of `requests` and of `tokens`.",
    "x-ratelimit-remaining-": "Rest of it.",
    "x-ratelimit-reset-": "Seconds until all of it is available again.",
}
ERRORS = {
    "context_length_exceeded": "The prompt, or a text to embed, has more tokens than the model may read.",
    "engine_error": "The model failed while answering.",
    "engine_unavailable": "The replica could not be reached; it is restarting.",
    "host_not_allowed": "`Host` is no name of the service.",
    "http_error": "Another refusal of the HTTP layer.",
    "internal_error": "A fault of the service; the message has the trace id.",
    "invalid_api_key": "The API key is unknown.",
    "invalid_json": "The body is not JSON in UTF-8.",
    "invalid_prompt": "The prompt template cannot render the conversation.",
    "invalid_value": "A field's value is not valid, or contradicts another's.",
    "method_not_allowed": "The path has no such method.",
    "missing_api_key": "There is no API key in `Authorization`.",
    "missing_required_parameter": "A required field is absent.",
    "model_not_found": "The model is not served.",
    "no_production_model": "No package is in production.",
    "not_found": "There is no such path.",
    "origin_not_allowed": "`Origin` is neither the service's own nor in `http.cors_origins`.",
    "overloaded": "Too many requests are waiting.",
    "rate_limit_exceeded": "The API key has reached one of its limits.",
    "request_too_large": "The body has more bytes than `limits.body_bytes`.",
    "timeout": "The first token, or the end of the answer, did not come in time.",
    "unsupported_media_type": "The body is not `application/json`.",
    "unknown_parameter": "A field is neither OpenAI's nor Graft's.",
}
FIELDS = ("field", "meaning", "type")


def document() -> dict[str, Any]:
    """The OpenAPI document; its route needs none of the services."""
    app = create_app(cast(ChatService, None), cast(EmbeddingService, None))
    return cast(dict[str, Any], TestClient(app).get("/openapi.json").json())


def page() -> str:
    """Paths, headers, errors and the records that bodies are made of."""
    openapi = document()
    paths = [
        _operation(path, method, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = openapi["components"]["schemas"]
    records = [_record(name, schemas) for name in sorted(schemas)]
    return sections(
        INTRODUCTION, "## Paths", *paths, "## Headers", _headers(), "## Errors", _errors(), "## Bodies", *records
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    request = operation.get("requestBody", {}).get("content", {})
    rows = [("request", _content(kind, body["schema"]), "") for kind, body in request.items()]
    rows += [
        (code(status), _content(kind, body["schema"]), _when(status, kind, response["description"]))
        for status, response in sorted(operation["responses"].items())
        for kind, body in response.get("content", {}).items()
        if status != "422"  # FastAPI's own, of which the routes have none
    ]
    key = "API key: if any are configured." if "security" in operation else "API key: none."
    return sections(f"### {method.upper()} {path}", key, table(("status", "body", "when"), rows))


def _when(status: str, kind: str, description: str) -> str:
    """The case of a response; FastAPI's own words for a success and for 503 say nothing about it."""
    if status == "200":
        return "success, if `stream` is true" if kind == "text/event-stream" else "success"
    return "no package is in production" if status == "503" else description


def _content(kind: str, schema: Schema) -> str:
    name = reference(schema)
    if kind == "text/event-stream":
        data = schema["properties"]["data"]["anyOf"][1]["contentSchema"]["anyOf"]
        events = " or ".join(_link(str(reference(one))) for one in data)
        return f"stream of events (`{kind}`): each {events}, then `[DONE]`"
    return _link(name) if name else type_text(schema)


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _record(name: str, schemas: dict[str, Schema]) -> str:
    required = schemas[name].get("required", [])
    rows = [
        (code(field), _description(schemas, about, f"{name}.{field}"), _type(about, field in required))
        for field, about in sorted(schemas[name]["properties"].items(), key=lambda pair: pair[0] not in required)
    ]
    return sections(f"### {name}", prose(_description(schemas, schemas[name], name)), table(FIELDS, rows))


def _description(schemas: dict[str, Schema], schema: Schema, place: str) -> str:
    """A field's description; pydantic leaves out one that the record which the field refers to has as well."""
    text = schema.get("description") or schemas.get(reference(schema) or "", {}).get("description")
    if not text:
        raise UndescribedError(f"{place} of the HTTP API has no description; write a string below it")
    return str(text)


def _type(schema: Schema, required: bool) -> str:
    """The type, with links to records, and without the `null` that every optional field takes."""
    kinds = [one for one in alternatives(schema) if one.get("type") != "null"] if not required else [schema]
    shown = " or ".join(type_text(one) for one in kinds)
    for name in sorted({name for one in kinds for name in _references(one)}, key=len, reverse=True):
        shown = shown.replace(name, _link(name)) if f"[{name}]" not in shown else shown
    return f"{shown}; required" if required else shown


def _references(part: Any) -> set[str]:
    """The names of all records that a schema refers to, at any depth."""
    if isinstance(part, dict):
        own = {part["$ref"].rpartition("/")[2]} if "$ref" in part else set()
        return own.union(*(_references(value) for value in part.values()))
    return set().union(*map(_references, part)) if isinstance(part, list) else set()


def _headers() -> str:
    _complete("request headers", http_source.request_headers(), set(REQUEST_HEADERS))
    _complete("response headers", http_source.response_headers(), set(RESPONSE_HEADERS))
    rows = [(code(name), "request", meaning) for name, meaning in REQUEST_HEADERS.items()]
    rows += [(code(_shown(name)), "response", meaning) for name, meaning in RESPONSE_HEADERS.items()]
    return table(("header", "of the", "meaning"), rows)


def _shown(name: str) -> str:
    return f"{name}NAME" if name.endswith("-") else name


def _errors() -> str:
    found = http_source.errors()
    _complete("error codes", set(found), set(ERRORS))
    rows = [(code(name), ", ".join(map(str, sorted(found[name]))) or "other", ERRORS[name]) for name in sorted(found)]
    introduction = "An error has OpenAI's shape ([Error](#error)); `code` is one of these."
    return sections(introduction, table(("code", "status", "meaning"), rows))


def _complete(what: str, found: set[str], described: set[str]) -> None:
    if found != described:
        raise UndescribedError(
            f"docs/generators/http_api.py: {what} without a description: {sorted(found - described)}; "
            f"descriptions of none in the source: {sorted(described - found)}"
        )
