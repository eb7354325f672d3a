"""Citations: a sentence cites the passage that it used, and one that used none cites none."""

from __future__ import annotations

from deployments.app.steps.citations import cite
from tasks.retrieval.chunks import Passage

COST = Passage(
    id="delivery.md#cost", source="delivery.md", headings=("Delivery", "Cost"), text="Plants: £6.95, 2 working days."
)
WATER = Passage(
    id="watering.md#how", source="watering.md", headings=("Watering",), text="Soak the roots well every evening."
)


def test_each_sentence_cites_what_it_shares_most_with() -> None:
    answer = "It costs £6.95 for plants. Then soak the roots each evening. Enjoy!"
    found = cite(answer, "What do I pay, and what then?", [WATER, COST])
    assert [(cited.chunk, answer[cited.start : cited.end]) for cited in found] == [
        ("delivery.md#cost", "It costs £6.95 for plants."),
        ("watering.md#how", "Then soak the roots each evening."),
    ]
    assert found[0].title == "Delivery > Cost"


def test_words_of_the_question_and_one_shared_word_are_no_use_of_a_passage() -> None:
    assert cite("Soak the roots every evening.", "Should I soak the roots every evening?", [WATER]) == ()
    assert cite("Good evening to you.", "Hello", [WATER, COST]) == ()
    assert cite("Plants are lovely.", "Hello", []) == ()
