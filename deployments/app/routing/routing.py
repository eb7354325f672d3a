"""Which packages are served, and which routes lead to an answer for the model that a request names."""

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
    """One served package: its Serve application, what its manifest says, and since when (Unix seconds)."""

    app: str
    name: str
    max_new_tokens: int
    since: int
    grounding: Grounding | None = None

    def new_tokens(self, wanted: int | None) -> int:
        """How many tokens an answer may have that `wanted` so many."""
        return min(wanted or self.max_new_tokens, self.max_new_tokens)


@dataclass(frozen=True)
class Route:
    """One way to an answer: a served package, or, where `served` is None, words that are fixed.

    `name` is the route's in `serve.yaml`, `canary`, or `digest` where a package was asked for by its own.
    """

    name: str
    digest: str = ""
    served: ServedPackage | None = None

    @property
    def model(self) -> str:
        """What an answer names as its model."""
        return self.digest or self.name


class ServedEmbedding(Record):
    """The served retrieval model: its digest and application, what it is called and gives, and since when."""

    app: str
    digest: str
    name: str
    dimensions: int
    since: int


class Canary(Record):
    """A package that answers `percent` of production's users in its place; which ones, `weights.py` says."""

    digest: str
    percent: Annotated[float, Field(gt=0, lt=100)]


class Routing(Record):
    """The assistant's `user_config`: swapped as a whole, so a promotion is one swap, and so is each new weight.

    `production` is a digest in `served`, or None before the first promotion; `previous` is the
    digest that was in production before, where it is still served. `canary` answers some of
    production's users, and `shadow` is asked what production has answered, unseen; each is there
    only beside a production, and the three are three packages.
    """

    production: str | None = None
    previous: str | None = None
    canary: Canary | None = None
    shadow: str | None = None
    served: dict[str, ServedPackage] = Field(default_factory=dict)
    embedding: ServedEmbedding | None = None

    @model_validator(mode="after")
    def _pointed_at_is_served(self) -> Routing:
        canary = self.canary.digest if self.canary else None
        beside = {"canary": canary, "shadow": self.shadow}
        for name, digest in {"production": self.production, "previous": self.previous, **beside}.items():
            if digest is not None and digest not in self.served:
                raise ValueError(f"{name} {digest} is not served")
        for name, digest in beside.items():
            if digest is not None and self.production in (None, digest):
                raise ValueError(f"{name} {digest} has no other package in production that it could stand beside")
        if canary is not None and canary == self.shadow:
            raise ValueError(f"{canary} is canary and shadow")
        return self

    def promoted(self, digest: str) -> Routing:
        """With `digest` in production, and no longer canary or shadow.

        Who goes back to the package before does not trust the newer one, so that leaves no `previous`.
        """
        if digest == self.production:
            return self
        previous = None if digest == self.previous else self.production
        return self.without(digest).model_copy(update={"production": digest, "previous": previous})

    def with_canary(self, digest: str, percent: float) -> Routing:
        """With `digest` as the canary, in place of any other; if it was the shadow, there is none now.

        Raises:
            GraftError: it is not served or is in production, or that is no percentage for a canary.
        """
        return self._beside(digest, {"canary": {"digest": digest, "percent": percent}})

    def with_shadow(self, digest: str) -> Routing:
        """With `digest` as the shadow, in place of any other; if it was the canary, there is none now.

        Raises:
            GraftError: it is not served, or is in production.
        """
        return self._beside(digest, {"shadow": digest})

    def _beside(self, digest: str, place: dict[str, Any]) -> Routing:
        wanted = {**self.without(digest).model_dump(), **place}
        return check(Routing, wanted, f"{digest} cannot stand there, and nothing was changed")

    def without_trial_traffic(self) -> Routing:
        """Without canary and shadow; both are served as before."""
        return self.model_copy(update={"canary": None, "shadow": None})

    def without(self, digest: str) -> Routing:
        """Where `digest` is neither canary nor shadow."""
        canary = None if self.canary and self.canary.digest == digest else self.canary
        return self.model_copy(update={"canary": canary, "shadow": None if self.shadow == digest else self.shadow})

    def only(self, kept: Container[str | None]) -> Routing:
        """Without the packages that are neither in `kept` nor production, canary or shadow."""
        pointed = {self.production, self.shadow, self.canary.digest if self.canary else None}
        served = {d: s for d, s in self.served.items() if d in kept or d in pointed}
        previous = self.previous if self.previous in served else None
        return self.model_copy(update={"previous": previous, "served": served})

    def routes(self, model: str, order: Sequence[RouteName], visitor: str) -> tuple[Route, ...]:
        """The routes to an answer for `model`, best first: those in `order` that are there, if it
        means the package in production; one if it is a digest, which nobody else answers for.

        Before them comes the canary, if `visitor` (as `weights.visitor` names them) is one of its users.

        Raises:
            ApiError: as `choose`.
        """
        digest = self.choose(model)
        if model in self.served:
            return (Route("digest", digest, self.served[digest]),)
        ways: dict[str, str | None] = {"production": digest, "previous": self.previous}
        names: tuple[str, ...] = tuple(order)
        if self.canary and bucket(self.canary.digest, visitor) < self.canary.percent:
            names = ("canary", *(name for name in names if ways.get(name) != self.canary.digest))
            ways["canary"] = self.canary.digest
        found = (Route(name, d, self.served[d]) for name in names if (d := ways.get(name)))
        return (*found, Route("words")) if "words" in order else tuple(found)

    def health(self) -> dict[str, Any]:
        """What the assistant's health tells of it, by which a rollout knows that it has arrived."""
        canary = self.canary.model_dump() if self.canary else None
        beside = {"canary": canary, "shadow": self.shadow}
        return {"production": self.production, **beside, "served": sorted(self.served)}

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
