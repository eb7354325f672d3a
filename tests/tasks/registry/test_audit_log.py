"""The audit log has every action on a package with its author, and never changes an entry."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.files import sha256_tree
from tasks.core.settings import load_settings
from tasks.registry.audit_log import actor, append_entry, claimed_name, read_audit, render
from tasks.registry.registry import PRODUCTION, Act, LocalRegistry
from tests.conftest import ROOT


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def digests(registry: LocalRegistry, build_package: Callable[..., Any]) -> list[str]:
    built = [build_package(adapter) for adapter in ("one", "two")]
    return [registry.publish(b.package, b.base, b.evaluation) for b in built]


def test_every_action_is_listed_in_its_order(registry: LocalRegistry, digests: list[str]) -> None:
    one, two = digests
    append_entry(registry, "publish", one, "passed the gate", "release run calm-otter", "calm-otter")
    registry.swap(PRODUCTION, one, None, "first", Act(action="promote", who="release run calm-otter", run="calm-otter"))
    append_entry(registry, "approve", two, "looks right", "Ada")
    registry.swap(PRODUCTION, two, one, "second", Act(action="promote", who="Ada"))
    registry.swap(PRODUCTION, one, two, "answers in French", Act(action="rollback", who="Bo"))
    entries = [(entry.action, entry.who, entry.digest, entry.channel) for entry in read_audit(registry)]
    assert entries == [
        ("publish", "release run calm-otter", one, None),
        ("promote", "release run calm-otter", one, PRODUCTION),
        ("approve", "Ada", two, None),
        ("promote", "Ada", two, PRODUCTION),
        ("rollback", "Bo", one, PRODUCTION),
    ]
    assert [entry.action for entry in read_audit(registry, two)] == ["approve", "promote"]


def test_what_was_noted_stays_and_a_publication_is_noted_once(
    registry: LocalRegistry, digests: list[str], tmp_path: Path
) -> None:
    append_entry(registry, "publish", digests[0], "the first time", "Ada")
    append_entry(registry, "reject", digests[0], "too curt", "Ada")
    before = sha256_tree(tmp_path / "registry/audit")
    append_entry(registry, "publish", digests[0], "again", "Bo")
    append_entry(registry, "reject", digests[0], "still too curt", "Ada")
    after = sha256_tree(tmp_path / "registry/audit")
    assert before.items() < after.items()
    assert [entry.reason for entry in read_audit(registry)] == ["the first time", "too curt", "still too curt"]


def test_a_swap_without_an_author_says_so(registry: LocalRegistry, digests: list[str]) -> None:
    registry.swap(PRODUCTION, digests[0], None, "from before there was an audit log")
    assert [(entry.who, entry.action) for entry in read_audit(registry)] == [("?", "promote")]


def test_it_is_printed_newest_first_with_the_owners(registry: LocalRegistry, digests: list[str]) -> None:
    owners = load_settings(ROOT / "params.yaml").owners
    assert "no package was published yet" in render([], owners)
    append_entry(registry, "publish", digests[0], "passed the gate", "release run calm-otter", "calm-otter")
    registry.swap(PRODUCTION, digests[0], None, "why not", Act(action="promote", who="Ada", run="calm-otter"))
    first, second, *rest = render(read_audit(registry), owners).splitlines()
    assert first.endswith(f"promote production   {digests[0][:12]}  Ada (run calm-otter): why not")
    assert second.endswith(f"publish              {digests[0][:12]}  release run calm-otter: passed the gate")
    assert [line.split()[0] for line in rest[2:]] == ["data", "model", "serving", "application", "operations"]
    assert owners.serving in rest[4]


def test_no_entry_writes_more_than_its_line_to_the_terminal(registry: LocalRegistry, digests: list[str]) -> None:
    append_entry(registry, "approve", digests[0], "fine\n2026-01-01 00:00 UTC  promote", "Ada\x1b[2J\u202e")
    (line,) = render(read_audit(registry), load_settings(ROOT / "params.yaml").owners).splitlines()[:1]
    assert line.endswith("  Ada [2J : fine 2026-01-01 00:00 UTC  promote")


def test_who_acts_is_the_login_name_and_any_other_name_is_told_as_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    login = pwd.getpwuid(os.getuid()).pw_name
    for name in ("LOGNAME", "USER"):
        monkeypatch.setenv(name, "ada")
    monkeypatch.setenv("GRAFT_USER", "Ada Lovelace")
    assert (claimed_name(), actor()) == ("Ada Lovelace", f"Ada Lovelace (as claimed by {login})")
    for own in ("", login):
        monkeypatch.setenv("GRAFT_USER", own)
        assert (claimed_name(), actor()) == (login, login)
