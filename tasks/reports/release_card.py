"""What is published beside a package: what was measured of it, its loss curve, and the card that shows all of it.

It can be no part of the package, because what is measured is the package. The registry keeps it in
`evaluations/DIGEST/`.
"""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import pandas as pd

from tasks.core.files import write_text
from tasks.core.settings import GateSettings
from tasks.evaluation.outputs import read_rates
from tasks.model_package.constraints import Constraints
from tasks.model_package.manifest import ADAPTER, read_manifest
from tasks.model_package.model_card import render
from tasks.reports.eval_tables import by_label, by_system, end_to_end

CARD = "card.md"
PICTURE = "loss.png"
ASSISTANT_SCORES = "assistant.json"


def gather(
    package: Path, evaluation: Path, assistant: Path, target: Path, settings: GateSettings, today: datetime.date
) -> None:
    """Write to the new folder `target` all that is published beside a package.

    Args:
        evaluation: what the stage of that name left.
        assistant: what the stage of that name left.
        settings: how intervals are drawn.
        today: what the data's age is counted to.

    Raises:
        GraftError: a stage's output cannot be read.
    """
    shutil.copytree(evaluation, target)
    shutil.copy(assistant / "scores.json", target / ASSISTANT_SCORES)
    shutil.copy(package / ADAPTER / PICTURE, target / PICTURE)
    write_text(target / CARD, release_card(package, target, settings, today))


def release_card(package: Path, gathered: Path, settings: GateSettings, today: datetime.date) -> str:
    """The card of a package with what was measured of it, as Markdown; `gathered` is what `gather` wrote.

    Raises:
        GraftError: what was measured cannot be read.
    """
    manifest = read_manifest(package)
    rows = pd.read_parquet(gathered / "rows.parquet")
    parts = [
        "## Evaluation",
        "\n".join(by_system(rows, settings)),
        "\n".join(by_label(rows, settings)),
        "## Whole turns",
        "\n".join(end_to_end(read_rates(gathered / ASSISTANT_SCORES))),
    ]
    return "\n\n".join([render(manifest, PICTURE, _age(manifest.constraints, today)).rstrip("\n"), *parts]) + "\n"


def _age(sheet: Constraints, today: datetime.date) -> str:
    """What to say of data that is old; nothing of younger."""
    if today <= sheet.review_by:
        return ""
    return (
        f"The data is old: it was last updated on {sheet.data_updated} and was to be renewed by {sheet.review_by} "
        f"({sheet.data_owner})."
    )
