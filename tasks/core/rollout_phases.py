"""The phases that a package goes through on its way to production, as `params.yaml` names them.

    prototype     served beside production and tried by its digest; nobody is sent there
    shadow        asked what production has answered; its answers are compared and never shown
    canary N      answers N percent of production's users
    production    answers all of them

A guard stands behind shadow and canary (`tasks/rollout/canary_analysis.py`). Nothing is served or moved here.
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
    """A phase, and for a canary the percentage of users whom it answers."""

    name: Name
    percent: int | None = None

    @property
    def label(self) -> str:
        """As it stands in `params.yaml`."""
        return self.name if self.percent is None else f"{self.name} {self.percent}"


def parse_phases(labels: Sequence[str]) -> tuple[Phase, ...]:
    """Phases from their labels.

    Raises:
        ValueError: one is unknown, the first is not prototype, the last is not production, one comes
            twice, or after one that sends the package more users.
    """
    phases = tuple(_phase(label) for label in labels)
    places = [(_ORDER.index(phase.name), phase.percent or 0) for phase in phases]
    if not phases or (phases[0].name, phases[-1].name) != ("prototype", "production"):
        raise ValueError("the first phase is prototype and the last is production")
    for before, after, label in zip(places, places[1:], labels[1:], strict=False):
        if after <= before:
            raise ValueError(f"{label} comes too late: prototype, shadow, canaries by rising percent, production")
    return phases


def _phase(label: str) -> Phase:
    if found := _CANARY.fullmatch(label):
        if (percent := int(found[1])) > 0:
            return Phase(name="canary", percent=percent)
    elif label in _ORDER and label != "canary":
        return Phase(name=label)
    raise ValueError(
        f"{label}: no phase; there are prototype, shadow, `canary 5` (any percent from 1 to 99), production"
    )
