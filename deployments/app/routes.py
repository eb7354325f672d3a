"""HTTP routes: OpenAI's chat completions, completions, embeddings and models, a health check, OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from deployments.app.embeddings import EmbeddingRequest, EmbeddingService
from deployments.app.openai.chat import CHAT
from deployments.app.openai.completions import COMPLETIONS, CompletionRequest
from deployments.app.openai.errors import ApiError
from deployments.app.openai.openapi import ERRORS, KEYED, document, request_body, response_bodies
from deployments.app.openai.requests import ChatRequest
from deployments.app.openai.responses import ChatChunk, ChatCompletion, Completion, EmbeddingList, Health, Model, Models
from deployments.app.routing.routing import Routing
from deployments.app.turn import ChatService


def create_app(chat_service: ChatService, embedding_service: EmbeddingService) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(title="Graft", version="1", docs_url=None, redoc_url=None, openapi_url=None, responses=ERRORS)

    @app.post(
        "/v1/chat/completions",
        openapi_extra=request_body(ChatRequest),
        responses=response_bodies(ChatCompletion, event=ChatChunk),
    )
    async def chat(request: Request) -> Response:
        return await chat_service.answer(request, CHAT)

    @app.post(
        "/v1/completions",
        openapi_extra=request_body(CompletionRequest),
        responses=response_bodies(Completion, event=Completion),
    )
    async def completions(request: Request) -> Response:
        return await chat_service.answer(request, COMPLETIONS)

    @app.post("/v1/embeddings", openapi_extra=request_body(EmbeddingRequest), responses=response_bodies(EmbeddingList))
    async def embed(request: Request) -> Response:
        return await embedding_service.answer(request)

    async def api_key(request: Request) -> None:
        chat_service.keys.owner(request.headers.get("authorization"))

    @app.get("/v1/models", dependencies=[Depends(api_key)], openapi_extra=KEYED, responses=response_bodies(Models))
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": _models(chat_service.routing)}

    @app.get(
        "/v1/models/{model}",
        dependencies=[Depends(api_key)],
        openapi_extra=KEYED,
        responses=response_bodies(Model),
    )
    async def model(model: str) -> dict[str, Any]:
        routing = chat_service.routing
        if routing.embedding and model in (routing.embedding.digest, routing.embedding.name):
            return _model(routing.embedding.digest, routing.embedding.since)
        digest = routing.choose(model)
        return _model(digest, routing.served[digest].since)

    @app.get("/healthz", responses={**response_bodies(Health), 503: {"model": Health}})
    async def health() -> Response:
        routing = chat_service.routing
        state = "ok" if routing.production else "no model is in production"
        return JSONResponse({"status": state, **routing.health()}, 200 if routing.production else 503)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return document(app, [ChatRequest, ChatChunk, CompletionRequest, EmbeddingRequest])

    _add_error_handlers(app)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """All errors have OpenAI's format, those of Starlette too."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: {request.method} {request.url.path}"
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return JSONResponse(ApiError(error.status_code, code, message).body, error.status_code, headers=error.headers)


def _models(routing: Routing) -> list[dict[str, Any]]:
    models = [_model(digest, served.since) for digest, served in routing.served.items()]
    embedding = routing.embedding
    return [*models, _model(embedding.digest, embedding.since)] if embedding else models


def _model(digest: str, since: int) -> dict[str, Any]:
    return {"id": digest, "object": "model", "created": since, "owned_by": "graft"}
