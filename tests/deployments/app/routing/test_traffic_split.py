"""The traffic split: how many users a canary answers, which of them stay, and whose a conversation is."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import pytest

from deployments.app.routing.traffic_split import bucket, user_bucket_key
from deployments.core.messages import TurnRequest
from tasks.core.records import Message

USERS = [user_bucket_key("shop", TurnRequest(customer=f"C-{number}")) for number in range(10_000)]
ONE, OTHER = "a" * 64, "b" * 64


def canary_users(digest: str, percent: float) -> set[str]:
    return {user for user in USERS if bucket(digest, user) < percent}


def within_chance(count: int, share: float) -> bool:
    """Four standard deviations of so many draws."""
    return abs(count - share * len(USERS)) <= 4 * sqrt(len(USERS) * share * (1 - share))


def asks(*words: str) -> TurnRequest:
    """A conversation of the customer's words with answers between them."""
    questions = [Message(role="user", content=word) for word in words]
    between = [Message(role="assistant", content="Yes?")] * (len(questions) - 1)
    turns = [message for pair in zip(questions, between, strict=False) for message in pair]
    return TurnRequest(messages=(Message(role="system", content="Be kind."), *turns, questions[-1]))


@pytest.mark.parametrize("percent", [1, 5, 25, 50, 99])
def test_a_percentage_is_the_share_of_users_within_chance(percent: float) -> None:
    assert within_chance(len(canary_users(ONE, percent)), percent / 100)


def test_a_higher_percentage_adds_users_and_moves_none_back() -> None:
    sets = [canary_users(ONE, percent) for percent in (1, 5, 25, 50, 99)]
    assert all(fewer < more for fewer, more in pairwise(sets))


def test_another_rollout_begins_with_other_users() -> None:
    """As many users are in both as chance puts there, so no user is always among the first."""
    both = canary_users(ONE, 25) & canary_users(OTHER, 25)
    assert within_chance(len(both), 0.25 * 0.25)


def test_a_user_is_one_whatever_they_say_and_another_under_another_key() -> None:
    user = TurnRequest(customer="C-1042")
    assert user_bucket_key("shop", user) == user_bucket_key(
        "shop", TurnRequest(messages=asks("Hello?").messages, customer="C-1042")
    )
    assert user_bucket_key("shop", user) != user_bucket_key("batch", user)
    assert user_bucket_key("shop", user) != user_bucket_key("shop", asks("C-1042"))


def test_a_conversation_of_an_anonymous_user_stays_where_it_began() -> None:
    first, later = asks("Where is HL-20931?"), asks("Where is HL-20931?", "And the other one?")
    assert user_bucket_key("shop", first) == user_bucket_key("shop", later)
    assert user_bucket_key("shop", first) != user_bucket_key("shop", asks("And the other one?"))
    assert user_bucket_key("shop", TurnRequest(text="Once")) != user_bucket_key("shop", TurnRequest(text="Twice"))
