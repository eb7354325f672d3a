"""The model card shows all fields of the constraint sheet, and the loss curve at its path."""

from __future__ import annotations

from tasks.core.settings import EngineSettings
from tasks.model_package.manifest import BaseModelInfo, Fidelity, Manifest
from tasks.model_package.model_card import render
from tests.support.constraints import SHEET

DATA = {"source": "written for tests", "training_rows": 12, "labels": {"order_status": 7, "plant_care": 5}, "files": {}}
FIDELITY = Fidelity(rows=3, tokens=90, perplexity=4.5, float32_perplexity=4.25, greedy_agreement=0.9)


def manifest(fidelity: Fidelity | None = None) -> Manifest:
    base = {"source": "test://tiny", "sha256": "0" * 64, "licence": "Apache-2.0", "architecture": "Tiny"}
    return Manifest(
        name="test-assistant",
        base=BaseModelInfo(**base, parameters=12_000_000, files={}),
        prompt={},
        engine=EngineSettings(name="transformers", dtype="auto", max_new_tokens=100),
        max_prompt_tokens=900,
        data=DATA,
        params={},
        constraints=SHEET,
        refusal_phrases=(),
        fidelity=fidelity,
        files={},
    )


def test_all_of_the_sheet_is_on_the_card() -> None:
    lines = render(manifest(), "adapter/loss.png").splitlines()
    assert lines[0] == "# test-assistant"
    for expected in (
        "**For:** tests",
        "- customers",
        "- advice",
        "**Languages:** en",
        "| base licence | Apache-2.0 |",
        "| data licence | CC0-1.0 |",
        "| data owner | tests |",
        "| data last updated | 2026-01-31; old after 2026-02-28 |",
        "| longest prompt | 900 tokens |",
        "| longest prompt with its answer | 1000 tokens (the base's limit: 4096 tokens) |",
        "| order_status | 7 |",
        "![Loss during training](adapter/loss.png)",
    ):
        assert expected in lines


def test_a_base_without_a_limit_is_shown_as_not_named() -> None:
    unlimited = manifest().model_copy(update={"constraints": SHEET.model_copy(update={"base_context_tokens": None})})
    assert "(the base's limit: not named)" in render(unlimited, "loss.png")


def test_what_exported_weights_lost_is_a_part_of_the_same_table() -> None:
    table = render(manifest(FIDELITY), "loss.png").split("| | |")[1].split("\n\n")[0]
    assert "| perplexity of assistant turns | 4.500 (float32: 4.250) |" in table
    assert "served weights" not in render(manifest(), "loss.png")


def test_a_warning_stands_above_the_sheet() -> None:
    card = render(manifest(), "loss.png", "The data is old.")
    assert card.index("**The data is old.**") < card.index("**For:**")
    assert "****" not in render(manifest(), "loss.png")
