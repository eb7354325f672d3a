"""Routing: the packages that are served, and the routes for the model that a request names."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from deployments.app.openai.errors import ApiError
from deployments.app.routing.traffic_split import bucket
from deployments.core.settings import RouteName
from tasks.core.records import Record
from tasks.core.settings import check
from tasks.model_package.manifest import Grounding
from tasks.registry.registry import PRODUCTION


class ServedPackage(Record):
    """One served package."""

    app: str
    """Its Serve application."""
    name: str
    """The package's name in its manifest."""
    max_new_tokens: int
    """The most tokens of an answer, from its manifest."""
    since: int
    """When it was deployed, in Unix seconds."""
    grounding: Grounding | None = None
    """Its index and retrieval model, from its manifest."""

    def new_tokens(self, requested: int | None) -> int:
        """The most tokens of an answer for which so many were requested."""
        return min(requested or self.max_new_tokens, self.max_new_tokens)


@dataclass(frozen=True)
class Route:
    """One way to answer: a served package, or the static message."""

    name: str
    """The route's name in `serve.yaml`, `canary`, or `digest` for a request that names a package by its digest."""
    digest: str = ""
    """The package's digest; empty for the static message."""
    served: ServedPackage | None = None
    """The package; None for the static message."""

    @property
    def model(self) -> str:
        """The model id in the answer."""
        return self.digest or self.name


class ServedEmbedding(Record):
    """The served retrieval model."""

    app: str
    """Its Serve application."""
    digest: str
    """Its digest."""
    name: str
    """Its name."""
    dimensions: int
    """The length of its vectors."""
    since: int
    """When it was deployed, in Unix seconds."""


class Canary(Record):
    """A package that answers a percentage of production's users, whom `traffic_split.py` chooses."""

    digest: str
    """Its digest."""
    percent: Annotated[float, Field(gt=0, lt=100)]
    """The percentage of users."""


class Routing(Record):
    """The assistant's `user_config`, replaced as a whole, so that a promotion or a new percentage is one atomic change.

    Canary and shadow need a package in production, and the three are three packages.
    """

    production: str | None = None
    """Digest of the package in production; None before the first promotion."""
    previous: str | None = None
    """Digest of the package that was in production before, if it is still served."""
    canary: Canary | None = None
    """The package that answers some of production's users."""
    shadow: str | None = None
    """Digest of the package that gets copies of production's requests."""
    served: dict[str, ServedPackage] = Field(default_factory=dict)
    """All served packages, by digest."""
    embedding: ServedEmbedding | None = None
    """The served retrieval model."""

    @model_validator(mode="after")
    def _roles_are_served(self) -> Routing:
        canary = self.canary.digest if self.canary else None
        trial = {"canary": canary, "shadow": self.shadow}
        for name, digest in {"production": self.production, "previous": self.previous, **trial}.items():
            if digest is not None and digest not in self.served:
                raise ValueError(f"{name} {digest} is not served")
        for name, digest in trial.items():
            if digest is not None and self.production in (None, digest):
                raise ValueError(f"{name} {digest} has no other package in production that it could stand beside")
        if canary is not None and canary == self.shadow:
            raise ValueError(f"{canary} is canary and shadow")
        return self

    def promoted(self, digest: str) -> Routing:
        """A routing with `digest` in production, and no longer canary or shadow.

        A return to the previous package means that the newer one is not trusted, so it leaves no `previous`.
        """
        if digest == self.production:
            return self
        previous = None if digest == self.previous else self.production
        return self.without(digest).model_copy(update={"production": digest, "previous": previous})

    def with_canary(self, digest: str, percent: float) -> Routing:
        """A routing with `digest` as the canary, in place of any other; if it was the shadow, there is none now.

        Raises:
            GraftError: it is not served or is in production, or the percentage is not between 0 and 100.
        """
        return self._with_trial(digest, {"canary": {"digest": digest, "percent": percent}})

    def with_shadow(self, digest: str) -> Routing:
        """A routing with `digest` as the shadow, in place of any other; if it was the canary, there is none now.

        Raises:
            GraftError: it is not served, or is in production.
        """
        return self._with_trial(digest, {"shadow": digest})

    def _with_trial(self, digest: str, role: dict[str, Any]) -> Routing:
        changed = {**self.without(digest).model_dump(), **role}
        return check(Routing, changed, f"{digest} cannot stand there, and nothing was changed")

    def without_trial_traffic(self) -> Routing:
        """A routing without canary and shadow; both are served as before."""
        return self.model_copy(update={"canary": None, "shadow": None})

    def without(self, digest: str) -> Routing:
        """A routing in which `digest` is neither canary nor shadow."""
        canary = None if self.canary and self.canary.digest == digest else self.canary
        return self.model_copy(update={"canary": canary, "shadow": None if self.shadow == digest else self.shadow})

    def only(self, kept: Container[str | None]) -> Routing:
        """A routing with the packages in `kept`, production, canary and shadow only."""
        in_use = {self.production, self.shadow, self.canary.digest if self.canary else None}
        served = {d: s for d, s in self.served.items() if d in kept or d in in_use}
        previous = self.previous if self.previous in served else None
        return self.model_copy(update={"previous": previous, "served": served})

    def routes(self, model: str, order: Sequence[RouteName], user_key: str) -> tuple[Route, ...]:
        """The routes for `model`, best first.

        For the package in production these are the available ones in `order`, after the canary if the
        user is one of its users. For a digest there is one, as no other package may answer for it.

        Args:
            model: the model that the request names.
            order: the names of the routes for production, from `serve.yaml`.
            user_key: the user, as `traffic_split.user_bucket_key` identifies them.

        Raises:
            ApiError: as `choose`.
        """
        digest = self.choose(model)
        if model in self.served:
            return (Route("digest", digest, self.served[digest]),)
        digests: dict[str, str | None] = {"production": digest, "previous": self.previous}
        names: tuple[str, ...] = tuple(order)
        if self.canary and bucket(self.canary.digest, user_key) < self.canary.percent:
            names = ("canary", *(name for name in names if digests.get(name) != self.canary.digest))
            digests["canary"] = self.canary.digest
        routes = (Route(name, d, self.served[d]) for name in names if (d := digests.get(name)))
        return (*routes, Route("words")) if "words" in order else tuple(routes)

    def health(self) -> dict[str, Any]:
        """The routing in the assistant's health check, by which a rollout sees that it is in effect."""
        canary = self.canary.model_dump() if self.canary else None
        return {
            "production": self.production,
            "canary": canary,
            "shadow": self.shadow,
            "served": sorted(self.served),
        }

    def choose(self, model: str) -> str:
        """The digest for `model`, which is a digest, `production`, or the name of the package in production.

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
