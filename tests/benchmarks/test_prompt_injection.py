"""The benchmark tells what the stage measured, and counts what is flagged by aim."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.prompt_injection import measure_injection
from tasks.safety.injection_classifier import SCORES
from tasks.safety.red_team_prompts import Attack
from tests.support.attack_texts import ATTACKS, HARMLESS


def test_figures_are_the_stages_and_shares_are_by_aim(tiny_classifier: Path) -> None:
    texts = [(ATTACKS[0], "leak_instructions"), (HARMLESS[0], "leak_instructions"), (HARMLESS[1], "impersonation")]
    attacks = [
        Attack.model_validate({"id": str(place), "customer": None, "text": text, "aims": aim})
        for place, (text, aim) in enumerate(texts)
    ]
    found = measure_injection(tiny_classifier, attacks)
    scores = json.loads((tiny_classifier / SCORES).read_text())
    assert (found["injection_recall"], found["injection_fpr"]) == (scores["injection_recall"], scores["injection_fpr"])
    assert found["redteam_flagged"] == {"impersonation": 0.0, "leak_instructions": 0.5}
    assert found["ms_per_text"] > 0
