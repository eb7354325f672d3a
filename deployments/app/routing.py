"""Which packages are served, and which one a request means."""

from __future__ import annotations

from pydantic import Field, model_validator

from deployments.app.errors import ApiError
from tasks.records import Record
from tasks.registry import PRODUCTION


class Served(Record):
    """One served package: its Serve application, what its manifest says, and since when (Unix seconds)."""

    app: str
    name: str
    max_new_tokens: int
    since: int

    def new_tokens(self, wanted: int | None) -> int:
        """How many tokens an answer may have that `wanted` so many."""
        return min(wanted or self.max_new_tokens, self.max_new_tokens)


class ServedEmbedding(Record):
    """The served retrieval model: its digest and application, what it is called and gives, and since when."""

    app: str
    digest: str
    name: str
    dimensions: int
    since: int


class Routing(Record):
    """The assistant's `user_config`: swapped as a whole, so a promotion is one swap.

    `production` is a digest in `served`, or None before the first promotion.
    """

    production: str | None = None
    served: dict[str, Served] = Field(default_factory=dict)
    embedding: ServedEmbedding | None = None

    @model_validator(mode="after")
    def _production_is_served(self) -> Routing:
        if self.production is not None and self.production not in self.served:
            raise ValueError(f"production {self.production} is not served")
        return self

    def choose(self, model: str) -> str:
        """The digest that `model` means: itself, or `production`, or the production package's name.

        Raises:
            ApiError: 404 for a model that is not served, 503 when nothing is in production.
        """
        if model in self.served:
            return model
        if self.production and model in (PRODUCTION, self.served[self.production].name):
            return self.production
        if model == PRODUCTION:
            message = "no model is in production yet: run the release, or ask a served model by its digest"
            raise ApiError(503, "no_production_model", message, param="model", retry_after_s=10)
        raise _not_served(model)

    def embeds(self, model: str) -> ServedEmbedding:
        """The retrieval model, if `model` is its digest or its name.

        Raises:
            ApiError: 404 for any other.
        """
        if self.embedding is None or model not in (self.embedding.digest, self.embedding.name):
            raise _not_served(model)
        return self.embedding


def _not_served(model: str) -> ApiError:
    message = f"The model `{model}` does not exist or is not served for this; GET /v1/models lists those that are"
    return ApiError(404, "model_not_found", message, param="model")
