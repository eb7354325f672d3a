"""Tests of releases: found by a few digits, listed with their scores, and rolled back one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from tasks.core.errors import GraftError
from tasks.core.files import write_json, write_text
from tasks.registry.audit_log import append_entry
from tasks.registry.registry import PRODUCTION, Act, Channel, LocalRegistry
from tasks.reports.release_card import ASSISTANT_SCORES, CARD
from tasks.reports.releases import before, describe, find, listing, to_go_back_to

BASE = {"n": 154, "quality": 0.0736, "tool_call_match": 0.0}
CANDIDATE = {"n": 154, "quality": 0.431, "tool_call_match": 0.617, "valid_format": 1.0}
SYSTEMS = {"base": {"all": BASE}, "candidate": {"all": CANDIDATE}}
RATES = {
    "tool_exact": {"n": 78, "value": 0.6026},
    "policy_violations": {"n": 654, "value": 2.0},
    "false_refusal_rate": {"n": 125, "value": 0.144},
}


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def publish(registry: LocalRegistry, build_package: Callable[..., Any]) -> Callable[..., str]:
    """A function that publishes a package with totals and end-to-end rates."""

    def publish(adapter: str, systems: dict[str, Any] | None, rates: dict[str, Any] | None = None) -> str:
        built = build_package(adapter)
        write_json(built.evaluation / "scores.json", {} if systems is None else {"systems": systems})
        if rates is not None:
            write_json(built.evaluation / ASSISTANT_SCORES, {"rates": rates})
        return registry.publish(built.package, built.base, built.evaluation)

    return publish


def history(*moves: tuple[Literal["promote", "rollback"] | None, str]) -> list[Channel]:
    start = datetime(2026, 1, 31, tzinfo=UTC)
    acts = [Act(action=action, who="Ada") if action else None for action, _ in moves]
    return [
        Channel(name=PRODUCTION, digest=digest, previous=None, at=start + timedelta(minutes=n), reason="", act=acts[n])
        for n, (_, digest) in enumerate(moves)
    ]


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([], None),
        ([("promote", "a")], None),
        ([("promote", "a"), ("promote", "b")], "a"),
        ([(None, "a"), (None, "b")], "a"),
        ([("promote", "a"), ("promote", "b"), ("promote", "c"), ("rollback", "b")], "a"),
        ([("promote", "a"), ("promote", "b"), ("rollback", "a")], None),
        ([("promote", "a"), ("promote", "b"), ("rollback", "a"), ("promote", "c")], "a"),
        ([("promote", "a"), ("promote", "b"), ("rollback", "z")], "b"),
        ([("promote", "a"), ("promote", "b"), ("promote", "b")], "a"),
    ],
)
def test_going_back_twice_goes_two_packages_back(
    moves: Sequence[tuple[Literal["promote", "rollback"] | None, str]], expected: str | None
) -> None:
    assert before(history(*moves)) == expected


def test_another_channel_is_no_release_to_go_back_to() -> None:
    canary = [swap.model_copy(update={"name": "canary"}) for swap in history(("promote", "b"))]
    assert before([*history(("promote", "a")), *canary]) is None


def test_without_a_release_before_there_is_nothing_to_go_back_to(
    registry: LocalRegistry, publish: Callable[..., str]
) -> None:
    registry.swap(PRODUCTION, publish("one", None), None, "first")
    with pytest.raises(GraftError, match="no package was in production before"):
        to_go_back_to(registry)


def test_a_package_is_found_by_six_digits_or_as_production(
    registry: LocalRegistry, publish: Callable[..., str]
) -> None:
    with pytest.raises(GraftError, match="no package was released yet"):
        find(registry, PRODUCTION)
    digest = publish("one", None)
    registry.swap(PRODUCTION, digest, None, "first")
    assert {find(registry, name) for name in (PRODUCTION, digest, digest[:6])} == {digest}
    for name, message in ((digest[:5], "at least 6"), ("absent", "at least 6"), ("f" * 12, "no such package")):
        with pytest.raises(GraftError, match=message):
            find(registry, name)


def test_digits_that_begin_two_packages_are_refused(registry: LocalRegistry, tmp_path: Path) -> None:
    two = [("abcdef" + digit).ljust(64, "0") for digit in "12"]
    for digest in two:
        write_text(tmp_path / "registry/packages" / digest / "manifest.json", "{}")
    with pytest.raises(GraftError, match=f"several packages begin with these digits.*{two[0]}, {two[1]}"):
        find(registry, "abcdef")
    assert find(registry, "abcdef1") == two[0]


def test_releases_are_listed_newest_first_with_what_they_scored(
    registry: LocalRegistry, publish: Callable[..., str]
) -> None:
    assert "no package was released yet" in listing(registry)
    old, new = publish("one", None), publish("two", SYSTEMS)
    registry.swap(PRODUCTION, old, None, "the first")
    registry.swap(PRODUCTION, new, old, "a better one")
    registry.swap("trial", old, None, "another channel")
    _, first, second = listing(registry).splitlines()
    assert first.split()[2:] == [new[:12], "0.431", "+0.357", "-", "-", "-", "a", "better", "one"]
    assert second.split()[2:] == [old[:12], "-", "-", "-", "-", "-", "the", "first"]


def test_end_to_end_rates_stand_beside_quality_and_a_line_fits_in_120_characters(
    registry: LocalRegistry, publish: Callable[..., str]
) -> None:
    without_refusals = {**RATES, "false_refusal_rate": {"n": 0, "value": None}}
    new, old = publish("two", SYSTEMS, RATES), publish("one", SYSTEMS, without_refusals)
    registry.swap(PRODUCTION, old, None, "why\nit was " + "so " * 40)
    registry.swap(PRODUCTION, new, old, "release run humongous-salamander")
    head, first, second = listing(registry).splitlines()
    assert first.split()[3:8] == ["0.431", "+0.357", "0.603", "2", "0.144"]
    assert second.split()[5:8] == ["0.603", "2", "-"]
    ends = [head.index(title) + len(title) for title in ("tool exact", "violations", "false refusals")]
    assert [first[:end].split()[-1] for end in ends] == ["0.603", "2", "0.144"]
    assert max(len(line) for line in (head, first, second)) <= 120
    assert second.endswith(" why it was so so so so so ...")


def test_one_release_is_shown_with_its_scores_its_history_and_who_approved_it(
    registry: LocalRegistry, build_package: Callable[..., Any]
) -> None:
    built = build_package("one")
    write_json(built.evaluation / "scores.json", {"systems": SYSTEMS})
    digest = registry.publish(built.package, built.base, built.evaluation)
    append_entry(registry, "approve", digest, "reads well", "Ada")
    registry.swap(PRODUCTION, digest, None, "first", Act(action="promote", who="Bo"))
    shown = describe(registry, digest)
    assert shown.startswith(f"package {digest}\nbuilt at: 2026-01-31\n")
    assert "This package has no card." in shown
    assert "| candidate | 154 |   0.431 |           - |     0.617 |" in shown
    assert "Bo: first" in shown
    assert shown.endswith("Approved by Ada: reads well")


def test_a_release_with_a_whole_card_is_shown_with_that(
    registry: LocalRegistry, build_package: Callable[..., Any]
) -> None:
    built = build_package("one")
    write_text(built.evaluation / CARD, "# The whole card\n\n| tool_exact | 78 | 0.6026 |\n")
    shown = describe(registry, registry.publish(built.package, built.base, built.evaluation))
    assert "\n\n# The whole card\n\n| tool_exact | 78 | 0.6026 |\n\nHistory:\n" in shown
    assert "without scores" not in shown


def test_a_package_from_before_lacks_files_and_is_shown(
    registry: LocalRegistry, build_package: Callable[..., Any]
) -> None:
    built = build_package("one")
    (built.evaluation / "scores.json").unlink()
    (built.package / "provenance.json").unlink()
    digest = registry.publish(built.package, built.base, built.evaluation)
    shown = describe(registry, digest)
    assert "It was published without scores." in shown
    assert shown.endswith("No person approved it.")
