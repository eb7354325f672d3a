"""The constraint sheet of a package: licenses, intended and forbidden uses, context length, age of the data.

It is a record in the manifest, so it is part of the package's digest; `tasks/model_package/model_card.py` shows it to
people. Each server decides whether it accepts these constraints: `tasks/model_package/admission.py`.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from tasks.core.records import Record

_LIMITS = ("max_position_embeddings", "n_positions")


class Constraints(Record):
    """The constraints on the use of a package."""

    base_licence: str
    """License of the base model, an SPDX identifier."""
    data_licence: str
    """License of the training data, an SPDX identifier."""
    data_owner: str
    """Owner of the training data, from the contract."""
    data_updated: datetime.date
    """Last update of the training data."""
    review_after_days: int
    """Days after `data_updated` from which the data counts as old."""
    intended_use: str
    """The use that the package was made for."""
    forbidden_uses: tuple[str, ...]
    """Uses that are excluded."""
    languages: tuple[str, ...]
    """Languages that the package answers in."""
    context_tokens: int
    """Tokens of the longest prompt together with the longest answer to it."""
    base_context_tokens: int | None
    """Tokens that the base model was made for; None if its config names no limit."""

    @property
    def review_by(self) -> datetime.date:
        """The last day on which the data does not count as old."""
        return self.data_updated + datetime.timedelta(days=self.review_after_days)


def context_limit(base: Path) -> int | None:
    """The context length in tokens that the base model in a folder was made for; None if its config names none."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return next((int(config[name]) for name in _LIMITS if config.get(name)), None)
