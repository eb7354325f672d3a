"""The injection classifier: its file check, scoring with numpy alone, and a short attack in a long text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.safety.injection_classifier import INFO, VOCABULARY, WEIGHTS, open_classifier
from tests.support.attack_texts import ATTACKS, HARMLESS


def test_attacks_score_above_the_threshold_and_questions_below(tiny_classifier: Path) -> None:
    classifier = open_classifier(tiny_classifier)
    assert all(classifier.is_attack(text) for text in ATTACKS)
    assert not any(classifier.is_attack(text) for text in HARMLESS)


def test_a_short_attack_in_a_long_text_is_found(tiny_classifier: Path) -> None:
    classifier = open_classifier(tiny_classifier)
    long = " ".join(HARMLESS * 10)
    assert not classifier.is_attack(long)
    assert classifier.is_attack(f"{long} {ATTACKS[0]} {long}")


def test_a_text_of_which_nothing_is_known_has_the_bias_for_a_score(tiny_classifier: Path) -> None:
    classifier = open_classifier(tiny_classifier)
    assert classifier.score("") == classifier.score("ѮѮѮ") == classifier.info.bias


@pytest.mark.parametrize("name", [VOCABULARY, WEIGHTS])
def test_it_opens_only_as_it_was_written(tiny_classifier: Path, name: str) -> None:
    (tiny_classifier / name).write_bytes((tiny_classifier / name).read_bytes() + b" ")
    with pytest.raises(GraftError, match=f"not those that {INFO} lists: .*{name}"):
        open_classifier(tiny_classifier)


def test_no_classifier_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="run the stage `prompt_injection` first"):
        open_classifier(tmp_path)


def test_scoring_imports_neither_scikit_learn_nor_torch() -> None:
    program = "import tasks.safety.injection_classifier, sys; print(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"sklearn", "scipy", "pandas", "torch"} & set(done.stdout.split())
