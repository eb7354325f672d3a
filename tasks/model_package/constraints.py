"""A package's constraint sheet: under which licences, for what and not for what, on how much text, by data how old.

It is a record in the manifest, so it is part of the package's digest; `tasks/model_package/model_card.py` writes it for
people. Whether a server accepts what stands in it is the server's to say: `tasks/model_package/admission.py`.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from tasks.core.records import Record

_LIMITS = ("max_position_embeddings", "n_positions")


class Constraints(Record):
    """What a package may be used for.

    Licences are SPDX identifiers. `context_tokens` is the longest prompt and the longest answer to it
    together, `base_context_tokens` what the base was made for. After `review_after_days` since
    `data_updated` the data counts as old.
    """

    base_licence: str
    data_licence: str
    data_owner: str
    data_updated: datetime.date
    review_after_days: int
    intended_use: str
    forbidden_uses: tuple[str, ...]
    languages: tuple[str, ...]
    context_tokens: int
    base_context_tokens: int | None

    @property
    def review_by(self) -> datetime.date:
        """The last day on which the data is not old."""
        return self.data_updated + datetime.timedelta(days=self.review_after_days)


def context_limit(base: Path) -> int | None:
    """The longest text in tokens that the base model in a folder was made for; None where its config names none."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return next((int(config[name]) for name in _LIMITS if config.get(name)), None)
