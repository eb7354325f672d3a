"""OpenAPI document: declares the bodies, which the routes read and write themselves."""

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
"""For routes that require an API key if any are configured."""


def request_body(request: type[BaseModel]) -> dict[str, Any]:
    """For a route that requires an API key and reads `request` as JSON."""
    content = {"application/json": {"schema": _reference(request)}}
    return {**KEYED, "requestBody": {"required": True, "content": content}}


def response_bodies(
    answer: type[BaseModel], *, event: type[BaseModel] | None = None
) -> dict[int | str, dict[str, Any]]:
    """For a route whose answer is `answer`, or a stream of server-sent events whose data are `event`, then [DONE]."""
    if event is None:
        return {200: {"model": answer}}
    data = {"contentMediaType": "application/json", "contentSchema": {"anyOf": [_reference(event), _reference(Error)]}}
    sent = {"type": "object", "properties": {"data": {"type": "string", "anyOf": [{"const": "[DONE]"}, data]}}}
    return {200: {"model": answer, "content": {"text/event-stream": {"schema": sent}}}}


def _reference(body: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{body.__name__}"}


def document(app: FastAPI, bodies: list[type[BaseModel]]) -> dict[str, Any]:
    """The document of all routes, with `bodies`, which the routes only refer to, among its components."""
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    components = schema.setdefault("components", {})
    components["schemas"] = {**definitions["$defs"], **components.get("schemas", {})}
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return schema
