"""Tests of the prompt-injection benchmark: it reports the stage's metrics, and counts flagged texts by aim."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.prompt_injection import measure_injection
from tasks.safety.injection_classifier import SCORES
from tasks.safety.red_team_prompts import Attack
from tests.support.attack_texts import ATTACKS, HARMLESS


def test_metrics_are_the_stages_and_fractions_are_by_aim(tiny_classifier: Path) -> None:
    texts = [(ATTACKS[0], "leak_instructions"), (HARMLESS[0], "leak_instructions"), (HARMLESS[1], "impersonation")]
    attacks = [
        Attack.model_validate({"id": str(index), "customer": None, "text": text, "aims": aim})
        for index, (text, aim) in enumerate(texts)
    ]
    results = measure_injection(tiny_classifier, attacks)
    scores = json.loads((tiny_classifier / SCORES).read_text())
    assert (results["injection_recall"], results["injection_fpr"]) == (
        scores["injection_recall"],
        scores["injection_fpr"],
    )
    assert results["redteam_flagged"] == {"impersonation": 0.0, "leak_instructions": 0.5}
    assert results["ms_per_text"] > 0
