"""Release card: the model card with evaluation results, published beside a package with its scores and loss curve.

It cannot be part of the package, because it has the evaluation of that package. The registry keeps it
in `evaluations/DIGEST/`.
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
    """Write all files that are published beside a package.

    Args:
        package: folder of the package.
        evaluation: output folder of the stage `evaluate`.
        assistant: output folder of the stage `evaluate_assistant`.
        target: folder to write, which must not exist.
        settings: confidence and bootstrap of the intervals.
        today: date to which the data's age is counted.

    Raises:
        GraftError: a stage's output cannot be read.
    """
    shutil.copytree(evaluation, target)
    shutil.copy(assistant / "scores.json", target / ASSISTANT_SCORES)
    shutil.copy(package / ADAPTER / PICTURE, target / PICTURE)
    write_text(target / CARD, release_card(package, target, settings, today))


def release_card(package: Path, gathered: Path, settings: GateSettings, today: datetime.date) -> str:
    """The model card of a package with its evaluation results, as Markdown.

    Args:
        package: folder of the package.
        gathered: folder that `gather` wrote.
        settings: confidence and bootstrap of the intervals.
        today: date to which the data's age is counted.

    Raises:
        GraftError: the evaluation results cannot be read.
    """
    manifest = read_manifest(package)
    rows = pd.read_parquet(gathered / "rows.parquet")
    parts = [
        "## Evaluation",
        "\n".join(by_system(rows, settings)),
        "\n".join(by_label(rows, settings)),
        "## End-to-end evaluation",
        "\n".join(end_to_end(read_rates(gathered / ASSISTANT_SCORES))),
    ]
    return "\n\n".join([render(manifest, PICTURE, _age(manifest.constraints, today)).rstrip("\n"), *parts]) + "\n"


def _age(sheet: Constraints, today: datetime.date) -> str:
    """A warning if the data is past its review date; else empty."""
    if today <= sheet.review_by:
        return ""
    return (
        f"The data is out of date: it was last updated on {sheet.data_updated} and was due for review by "
        f"{sheet.review_by} ({sheet.data_owner})."
    )
