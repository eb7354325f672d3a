"""The OpenAPI document. Routes read and write their bodies themselves; here is said which."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from deployments.app.openai.responses import Error

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Error, "description": "The request is at fault: 400, 401, 404, 405, 413 or 429"},
    "5XX": {"model": Error, "description": "The service is at fault, or has no time: 500, 503 or 504"},
}
KEYED: dict[str, Any] = {"security": [{"bearer": []}, {}]}
"""For routes that ask for a key wherever keys are set."""


def request_body(request: type[BaseModel]) -> dict[str, Any]:
    """For a route that asks for a key and reads `request` as JSON."""
    content = {"application/json": {"schema": _reference(request)}}
    return {**KEYED, "requestBody": {"required": True, "content": content}}


def response_bodies(
    answer: type[BaseModel], *, event: type[BaseModel] | None = None
) -> dict[int | str, dict[str, Any]]:
    """For a route whose answer is `answer`, or a stream of server-sent events whose data are `event`, then [DONE]."""
    if event is None:
        return {200: {"model": answer}}
    data = {"contentMediaType": "application/json", "contentSchema": {"anyOf": [_reference(event), _reference(Error)]}}
    one = {"type": "object", "properties": {"data": {"type": "string", "anyOf": [{"const": "[DONE]"}, data]}}}
    return {200: {"model": answer, "content": {"text/event-stream": {"schema": one}}}}


def _reference(body: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{body.__name__}"}


def document(app: FastAPI, bodies: list[type[BaseModel]]) -> dict[str, Any]:
    """The document of all routes, with `bodies` among its components: those that routes only name."""
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, named = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    components = found.setdefault("components", {})
    components["schemas"] = {**named["$defs"], **components.get("schemas", {})}
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return found
