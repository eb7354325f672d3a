"""Rollout phases: parsed in order, and refused in any order that does not lead to production."""

from __future__ import annotations

import pytest

from tasks.core.paths import PARAMS
from tasks.core.rollout_phases import Phase, parse_phases
from tasks.core.settings import load_settings
from tests.conftest import ROOT


def test_phases_are_read_in_order() -> None:
    phases = parse_phases(["prototype", "shadow", "canary 5", "canary 25", "production"])
    assert phases[2] == Phase(name="canary", percent=5)
    assert [phase.label for phase in phases] == ["prototype", "shadow", "canary 5", "canary 25", "production"]
    assert [phase.name for phase in parse_phases(["prototype", "production"])] == ["prototype", "production"]


def test_the_projects_own_phases_are_some() -> None:
    phases = parse_phases(load_settings(ROOT / PARAMS).rollout.phases)
    assert {phase.name for phase in phases} == {"prototype", "shadow", "canary", "production"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "first phase is prototype"),
        (["shadow", "production"], "first phase is prototype"),
        (["prototype", "canary 5"], "last is production"),
        (["prototype", "canary 5", "shadow", "production"], "shadow comes too late"),
        (["prototype", "canary 25", "canary 5", "production"], "canary 5 comes too late"),
        (["prototype", "shadow", "shadow", "production"], "shadow comes too late"),
        (["prototype", "canary", "production"], "canary: unknown phase"),
        (["prototype", "canary 0", "production"], "canary 0: unknown phase"),
        (["prototype", "canary 100", "production"], "canary 100: unknown phase"),
        (["prototype", "beta", "production"], "beta: unknown phase"),
    ],
)
def test_what_is_no_way_to_production_is_refused(labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_phases(labels)
