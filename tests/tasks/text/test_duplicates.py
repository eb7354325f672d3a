"""Exact and near duplicates: the definition of each, and hashing that finds the pairs that comparing all finds."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from tasks.core.records import Message, ToolCall
from tasks.text.duplicates import Clusters, find_duplicates, fingerprint, jaccard, shingles


def chat(question: str, answer: str = "") -> tuple[Message, ...]:
    return (Message(role="user", content=question), Message(role="assistant", content=answer or f"re {question[::-1]}"))


def test_case_spacing_and_unicode_form_do_not_make_a_difference() -> None:
    one, other = chat("Where IS my \ufb01cus?", "On its way"), chat("where is  my ficus? ", "on its way")
    assert fingerprint(one) == fingerprint(other)
    assert find_duplicates([one, chat("something else"), other], 0.8).exact == (None, None, 0)


def test_the_system_turn_makes_no_difference_and_the_tool_does() -> None:
    def call(name: str) -> Message:
        return Message(role="assistant", tool_calls=(ToolCall(name=name, arguments={"order_id": "HL-1"}),))

    user = Message(role="user", content="HL-1 please")
    system = Message(role="system", content="Be brief.")
    assert fingerprint((system, user, call("find"))) == fingerprint((user, call("find")))
    assert fingerprint((user, call("find"))) != fingerprint((user, call("cancel")))


def test_exact_duplicates_are_not_counted_as_near_ones_too() -> None:
    found = find_duplicates([chat("how deep do tulips go"), chat("How deep do tulips go")], 0.8)
    assert found.exact == (None, 0)
    assert found.near == (None, None)
    assert found.cluster == (0, 0)


def test_rows_over_the_threshold_are_near_and_rows_under_it_are_not() -> None:
    long = "my parcel of twelve bare root hedging plants came today and four of them look very dry indeed to me"
    answer = "Soak them overnight and they should recover."
    rows = [
        chat(long, answer),
        chat(long.replace("today", "today."), answer),
        chat(f"{long} sadly", answer),
        chat(long.replace("four", "six").replace("parcel", "box"), answer),
    ]
    similarity = [jaccard(shingles(rows[0]), shingles(row)) for row in rows]
    assert similarity[1] == 1.0
    assert similarity[2] >= 0.8 > similarity[3] >= 0.5
    assert find_duplicates(rows, 0.8).near == (None, 0, 0, None)
    assert find_duplicates(rows, similarity[3]).near == (None, 0, 0, 0)


def test_the_same_question_with_another_answer_is_near() -> None:
    rows = [chat("is it hardy?", "Down to minus ten."), chat("Is it hardy", "No, bring it in for the winter months.")]
    assert find_duplicates(rows, 0.8).near == (None, 0)


def test_a_chain_of_near_rows_is_one_cluster() -> None:
    words = [f"word{n}" for n in range(40)]
    chain = [chat(" ".join(words[shift : shift + 30]), "yes") for shift in range(0, 6, 2)]
    assert jaccard(shingles(chain[0]), shingles(chain[2])) < 0.8
    found = find_duplicates([chat("an odd one out"), *chain], 0.8)
    assert found.cluster == (0, 1, 1, 1)
    assert found.near == (None, None, 1, 2)


def test_turns_without_a_single_word_are_compared_by_their_signs() -> None:
    found = find_duplicates([chat("👍", "🌱"), chat("🌧", "🌻"), chat("👍", "🌷"), chat("", "")], 0.8)
    assert found.near == (None, None, 0, None)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_hashing_finds_what_comparing_all_pairs_finds(threshold: float) -> None:
    chance = random.Random(7)
    vocabulary = [f"w{n}" for n in range(60)]
    rows = []
    for number in range(60):
        words = chance.choices(vocabulary, k=24)
        for variant in range(3):
            changed = list(words)
            changed[chance.randrange(24)] = f"new{variant}"
            rows.append(chat(" ".join(changed), f"answer {number} {variant}"))
    sets = [shingles(row) for row in rows]
    clusters = Clusters(len(rows))
    for one, other in combinations(range(len(rows)), 2):
        if jaccard(sets[one], sets[other]) >= threshold:
            clusters.join(one, other)
    found = find_duplicates(rows, threshold)
    assert found.cluster == tuple(clusters.find(index) for index in range(len(rows)))


def test_no_rows() -> None:
    assert find_duplicates([], 0.8).cluster == ()
