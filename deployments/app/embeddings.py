"""Embeddings API: OpenAI's request for vectors, with the API keys, limits and telemetry of `turn.py`."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deployments.app.openai.errors import ApiError
from deployments.app.openai.requests import read_request
from deployments.app.routing.routing import Route
from deployments.app.turn import ChatService, answered, read_body
from deployments.app.turn_record import TurnRecord
from deployments.core.messages import EmbeddingBackend, EmbeddingResult, Refusal

_MAX_TEXTS = 2048
"""OpenAI's limit."""

Text = Annotated[str, Field(min_length=1)]


class EmbeddingRequest(BaseModel):
    """The body of `POST /v1/embeddings`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    """Name or digest of the served retrieval model."""
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=_MAX_TEXTS)]
    """A text, or several; token ids are not supported."""
    encoding_format: Literal["float", "base64"] | None = None
    """Numbers, or base64 of little-endian float32; default: numbers."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """The model's own number of dimensions; any other is refused."""

    user: Any = None
    """Without effect."""

    @field_validator("input", mode="before")
    @classmethod
    def _check_input(cls, value: object) -> object:
        if isinstance(value, list) and any(isinstance(part, int | list) for part in value):
            raise ValueError("token ids are not supported here: another tokenizer's would mean other words; send text")
        return value

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to embed."""
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)


class EmbeddingService:
    """Answers requests for vectors, with the API keys, limits and routing of the chat service."""

    def __init__(self, chat_service: ChatService, backend: EmbeddingBackend) -> None:
        self._chat_service = chat_service
        self._backend = backend

    async def answer(self, http_request: Request) -> Response:
        """Answer one request; every outcome is a response and a telemetry row."""
        record = self._chat_service.record("embeddings")
        return await answered(record, self._answer(record, http_request))

    async def _answer(self, record: TurnRecord, http_request: Request) -> Response:
        service = self._chat_service
        record.owner = service.keys.owner(http_request.headers.get("authorization"))
        body = await read_body(http_request, service.body_bytes)
        request = read_request(EmbeddingRequest, body)
        served = service.routing.embeds(request.model)
        record.route = Route("", served.digest)
        if request.dimensions not in (None, served.dimensions):
            message = f"this model's vectors have {served.dimensions} dimensions, and no other number; leave it out"
            raise ApiError(400, "invalid_value", message, param="dimensions")
        record.permit = service.limits.admit(record.owner, len(body), 0)
        result = await self._embed(service.timeouts.request_s, served.app, request.texts)
        record.finish_embedding(result.tokens)
        return JSONResponse(_body(request, served.digest, result), headers=record.headers)

    async def _embed(self, limit_s: float, app: str, texts: tuple[str, ...]) -> EmbeddingResult:
        try:
            async with asyncio.timeout(limit_s):
                result = await self._backend.embed(app, texts)
        except TimeoutError as error:
            raise ApiError(504, "timeout", f"the model did not finish within {limit_s:g} s") from error
        if isinstance(result, Refusal):
            raise ApiError.refused(result)
        return result


def _body(request: EmbeddingRequest, digest: str, result: EmbeddingResult) -> dict[str, Any]:
    encoded: list[Any]
    if request.encoding_format == "base64":
        encoded = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in result.vectors]
    else:
        encoded = result.vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(encoded)]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    return {"object": "list", "data": data, "model": digest, "usage": usage}
