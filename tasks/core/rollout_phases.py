"""Rollout phases that a package goes through on its way to production, as `params.yaml` names them.

    prototype     served beside production and tested by its digest; no user is routed to it
    shadow        receives copies of the requests that production has answered; its answers are compared, never shown
    canary N      answers N percent of production's users
    production    answers all of them

Canary analysis (`tasks/rollout/canary_analysis.py`) watches the shadow and canary phases. This module
only parses phases; it serves no package and moves no channel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from tasks.core.records import Record

Name = Literal["prototype", "shadow", "canary", "production"]
_ORDER: tuple[Name, ...] = ("prototype", "shadow", "canary", "production")
_CANARY = re.compile(r"canary (\d{1,2})")


class Phase(Record):
    """A rollout phase, and for a canary its percentage of users."""

    name: Name
    """The kind of phase."""
    percent: int | None = None
    """The percentage of production's users that a canary answers, 1 to 99; None for the other phases."""

    @property
    def label(self) -> str:
        """The phase as `params.yaml` writes it."""
        return self.name if self.percent is None else f"{self.name} {self.percent}"


def parse_phases(labels: Sequence[str]) -> tuple[Phase, ...]:
    """Phases from their labels.

    Raises:
        ValueError: a phase is unknown, the first is not prototype, the last is not production, or a phase
            comes twice or after one that sends the package more users.
    """
    phases = tuple(_phase(label) for label in labels)
    positions = [(_ORDER.index(phase.name), phase.percent or 0) for phase in phases]
    if not phases or (phases[0].name, phases[-1].name) != ("prototype", "production"):
        raise ValueError("the first phase is prototype and the last is production")
    for before, after, label in zip(positions, positions[1:], labels[1:], strict=False):
        if after <= before:
            raise ValueError(f"{label} comes too late: prototype, shadow, canaries by rising percent, production")
    return phases


def _phase(label: str) -> Phase:
    if match := _CANARY.fullmatch(label):
        if (percent := int(match[1])) > 0:
            return Phase(name="canary", percent=percent)
    elif label in _ORDER and label != "canary":
        return Phase(name=label)
    raise ValueError(
        f"{label}: unknown phase; the phases are prototype, shadow, `canary 5` (any percent from 1 to 99), production"
    )
