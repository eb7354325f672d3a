"""The stage `prompt_injection`: its training texts, its held-out texts, and equal bytes from equal texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.core.files import sha256_tree
from tasks.core.paths import KNOWLEDGE, PROMPT_INJECTION_SOURCES, RAW
from tasks.core.records import Example, Message
from tasks.core.settings import load_settings
from tasks.data.raw_rows import read_folder
from tasks.prompt_injection import ARTICLES, SHOP, build, measure, own_texts, paragraphs
from tasks.safety.attack_datasets import LabeledText, load_attack_sources
from tasks.safety.injection_classifier import SCORES, open_classifier
from tests.conftest import ROOT
from tests.support.attack_texts import ATTACKS, HARMLESS, tiny_settings, tiny_texts


def test_the_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    build(tiny_settings(), tiny_texts(), {}, tmp_path / "a")
    build(tiny_settings(), tiny_texts(), {}, tmp_path / "b")
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")


def test_scores_are_of_what_was_held_out_by_source(tmp_path: Path) -> None:
    extra = [
        LabeledText("an odd question about a hedge", True, "odd", held_out=True),
        LabeledText(ATTACKS[1], False, "trap", held_out=True),
        LabeledText(HARMLESS[0], False, ARTICLES, held_out=True),
    ]
    scores = build(tiny_settings(), tiny_texts() + extra, {}, tmp_path / "a")
    assert scores == json.loads((tmp_path / "a" / SCORES).read_text())
    assert scores["attacks"] == {
        "set": {"texts": 4, "flagged": 4, "share": 1.0},
        "odd": {"texts": 1, "flagged": 0, "share": 0.0},
    }
    assert scores["others"]["trap"] == {"texts": 1, "flagged": 1, "share": 1.0}
    # A text of another source appears by source, but it is not among the shop's own texts.
    assert (scores["injection_recall"], scores["injection_fpr"]) == (0.8, 0.0)


def test_the_threshold_lets_no_more_of_the_shops_own_turns_over_it_than_allowed(tmp_path: Path) -> None:
    strict = tiny_settings().model_copy(update={"max_false_positive_rate": 0.0})
    loose = tiny_settings().model_copy(update={"max_false_positive_rate": 0.5})
    build(strict, tiny_texts(), {}, tmp_path / "strict")
    build(loose, tiny_texts(), {}, tmp_path / "loose")
    high, low = open_classifier(tmp_path / "strict"), open_classifier(tmp_path / "loose")
    assert low.info.threshold < high.info.threshold
    assert measure(high, tiny_texts())["injection_fpr"] == 0.0


def test_nothing_to_learn_from_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    for texts in ([], tiny_texts()[4:5], [t for t in tiny_texts() if not t.attack]):
        with pytest.raises(GraftError, match="training needs attacks"):
            build(tiny_settings(), texts, {}, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_attacks_themselves_are_no_example_of_harmless_ones() -> None:
    def example(name: str, label: str) -> Example:
        messages = (
            Message(role="user", content=f"asks {name}"),
            Message(role="assistant", content=f"says {name}"),
            Message(role="tool", content="{}"),
        )
        return Example(id=name, label=label, group="", split="train", source="", messages=messages)

    rows = [example("a", "off_topic"), example("b", "off_topic"), example("c", "rule_breaking")]
    assert own_texts(rows, frozenset({"b", "rule_breaking"})) == ["asks a", "says a"]


def test_a_heading_goes_with_the_paragraph_below_it(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\n## B\n\none\n\ntwo\n\n## C\n\nthree\n")
    assert paragraphs(tmp_path) == ["## B\n\none", "two", "## C\n\nthree"]
    assert len(paragraphs(ROOT / KNOWLEDGE)) > 100


def test_the_licenses_of_the_datasets_are_in_the_classifiers_info(tmp_path: Path) -> None:
    build(tiny_settings(), tiny_texts(), {"set": "MIT"}, tmp_path / "a")
    assert open_classifier(tmp_path / "a").info.sources == {SHOP: "this repository's", "set": "MIT"}


def test_every_source_has_a_license_that_allows_it_and_every_own_attack_is_there() -> None:
    settings = load_settings(ROOT / "params.yaml").prompt_injection
    sources = load_attack_sources(ROOT / PROMPT_INJECTION_SOURCES).values()
    assert {source.license for source in sources} <= {"Apache-2.0", "MIT"}
    assert {source.use for source in sources} == {"train", "held_out", "split"}
    rows = [line.row for line in read_folder(ROOT / RAW) if line.row]
    known = {row.id for row in rows} | {row.label for row in rows} | {"rule_breaking"}
    assert set(settings.own_attacks) <= known
    assert SHOP not in {source.set for source in sources}
