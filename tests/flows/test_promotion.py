"""Moving production by hand, on a real Ray: forward, back, and back again where it fails."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from deployments import rollout
from flows.promotion import change, describe
from tasks.audit import read_audit
from tasks.errors import GraftError
from tasks.registries import open_registry
from tasks.registry import PRODUCTION, Act, ChannelConflictError
from tasks.releases import to_go_back_to
from tests.deployments.conftest import stack as serving  # noqa: F401
from tests.deployments.stack import Stack, make_package, seal


def by(action: Any) -> Act:
    return Act(action=action, who="Ada")


def answering() -> str | None:
    """What the live endpoint says is in production."""
    health: dict[str, Any] = httpx.get(rollout.base_url().replace("/v1", "/healthz"), timeout=10).json()
    return health["production"]


def test_production_moves_forward_and_back_and_not_behind_anybodys_back(
    serving: Stack,  # noqa: F811
    tiny_base: Any,
    tiny_prompts: Any,
) -> None:
    first, second = serving.publish(1), serving.publish(2)
    registry = open_registry()
    change(first, None, "the first", by("promote"))
    moved = change(second, first, "a better one", by("promote"))
    assert answering() == second == registry.channel(PRODUCTION).digest  # type: ignore[union-attr]
    told = describe(moved)
    assert first in told
    assert second in told
    assert list(moved.seconds) == ["deploy", "promote", "retire"]

    with pytest.raises(GraftError, match="in production already; nothing was changed"):
        change(second, second, "again", by("promote"))
    with pytest.raises(ChannelConflictError, match="nothing was changed"):
        change(serving.publish(3), first, "from an old view", by("promote"))
    assert answering() == second

    change(to_go_back_to(registry), second, "answers in French", by("rollback"))
    assert answering() == first == registry.channel(PRODUCTION).digest  # type: ignore[union-attr]

    broken = make_package(serving.root / "broken", 4, tiny_base, tiny_prompts)
    (broken / "adapter/adapter_model.safetensors").write_bytes(b"not weights")
    seal(broken, tiny_base)
    digest = registry.publish(broken, tiny_base, serving.root / "evaluation")
    with pytest.raises(GraftError, match="did not come up"):
        change(digest, first, "will not start", by("promote"))
    assert answering() == first
    assert [(entry.action, entry.digest, entry.who) for entry in read_audit(registry)] == [
        ("promote", first, "Ada"),
        ("promote", second, "Ada"),
        ("rollback", first, "Ada"),
    ]
