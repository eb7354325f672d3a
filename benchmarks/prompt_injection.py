"""Benchmark of the prompt-injection classifier: recall, false-positive rate, and latency.

Recall and false positives are those of `build/prompt_injection/scores.json`, measured by the stage on held-out texts.
In addition it reports the fraction of the texts in `data/redteam` that the classifier flags, by aim, and its time
per text. It is not expected to flag most of those: they break the shop's policy in a customer's words.

    python -m benchmarks.prompt_injection

The last line is one JSON object.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.paths import BUILT_PROMPT_INJECTION, REDTEAM
from tasks.safety.injection_classifier import SCORES, Classifier, open_classifier
from tasks.safety.red_team_prompts import Attack, read_attacks


def measure_injection(folder: Path, attacks: Sequence[Attack]) -> dict[str, Any]:
    """The stage's metrics, the fraction of `attacks` that is flagged, by aim, and milliseconds per text.

    Raises:
        GraftError: there is no classifier in `folder`.
    """
    classifier = open_classifier(folder)
    scores = json.loads((folder / SCORES).read_bytes())
    totals = Counter(attack.aims for attack in attacks)
    start = time.perf_counter()
    flagged = _flagged(classifier, attacks)
    seconds = time.perf_counter() - start
    return {
        "injection_recall": scores["injection_recall"],
        "injection_fpr": scores["injection_fpr"],
        "redteam_flagged": {aim: round(flagged[aim] / number, 3) for aim, number in sorted(totals.items())},
        "ms_per_text": round(seconds * 1000 / max(1, len(attacks)), 3),
    }


def _flagged(classifier: Classifier, attacks: Sequence[Attack]) -> Counter[str]:
    return Counter(attack.aims for attack in attacks if classifier.is_attack(attack.text))


def main() -> None:
    results = measure_injection(BUILT_PROMPT_INJECTION, read_attacks(REDTEAM))
    print(f"held out: recall {results['injection_recall']:.3f}, false positives {results['injection_fpr']:.4f}")
    for aim, fraction in results["redteam_flagged"].items():
        print(f"{aim:>22} {fraction:6.1%} flagged")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
