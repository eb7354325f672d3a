"""A share or count with the number of rows behind it, as stages write them and the gate reads them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tasks.core.errors import GraftError
from tasks.core.records import Record


class Rate(Record):
    """`value` over `n` rows; None where there are none."""

    n: int
    value: float | None


def share(hits: Collection[bool]) -> Rate:
    """The share of `hits` that are true."""
    return Rate(n=len(hits), value=round(sum(hits) / len(hits), 4) if hits else None)


def read_rates(path: Path) -> dict[str, Rate]:
    """The overall rates in a stage's `scores.json`, by name.

    Raises:
        GraftError: there are none.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return {name: Rate.model_validate(rate) for name, rate in content["rates"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise GraftError(f"{path}: no rates there; run the stage `evaluate_assistant` ({error})") from error
