"""Tests of promotion and rollback, also where they fail or another process was first."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.serve import rollout
from deployments.serve.promotion import (
    describe,
    is_served,
    production_digest,
    roll_back,
    serve_production,
    switch_production,
)
from tasks.core.errors import GraftError
from tasks.core.files import write_json
from tasks.registry.audit_log import read_audit
from tasks.registry.registry import PRODUCTION, Act, ChannelConflictError, open_registry
from tasks.reports.releases import to_go_back_to
from tests.support.fake_serve_api import PretendedServe, pretended_serve
from tests.support.prefect_stack import edit_yaml
from tests.support.ray_stack import make_package

pytestmark = pytest.mark.slow
PROMOTE, ROLLBACK = Act(action="promote", who="Ada"), Act(action="rollback", who="Ada")


@pytest.fixture
def serve(repository: Path) -> Iterator[PretendedServe]:
    assert repository == Path.cwd()
    with pretended_serve() as serve:
        yield serve


@pytest.fixture(scope="module")
def packages(tiny_base: Path, tiny_prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three packages that the server admits."""
    folder = tmp_path_factory.mktemp("packages")
    return [make_package(folder / str(seed), seed, tiny_base, tiny_prompts) for seed in (1, 2, 3)]


@pytest.fixture
def digests(serve: PretendedServe, packages: list[Path], tiny_base: Path, tmp_path: Path) -> list[str]:
    """The packages, published; the first was in production and the second is."""
    assert not serve.applications
    write_json(tmp_path / "evaluation" / "scores.json", {})
    published = [open_registry().publish(package, tiny_base, tmp_path / "evaluation") for package in packages]
    open_registry().swap(PRODUCTION, published[0], None, "the first", PROMOTE)
    switch_production(published[1], published[0], "a better one", PROMOTE)
    return published


def in_production() -> tuple[str | None, str | None]:
    """The digests of the channel and of the endpoint."""
    return production_digest(), rollout.served().production


def test_production_moves_to_another_package_and_back(digests: list[str]) -> None:
    assert in_production() == (digests[1], digests[1])
    switch = switch_production(to_go_back_to(open_registry()), digests[1], "answers in French", ROLLBACK)
    assert in_production() == (digests[0], digests[0])
    assert list(switch.seconds) == ["deploy", "promote", "retire"]
    text = describe(switch)
    assert text.index(digests[1]) < text.index(digests[0])
    assert [(entry.action, entry.digest, entry.who, entry.reason) for entry in read_audit(open_registry())] == [
        ("promote", digests[0], "Ada", "the first"),
        ("promote", digests[1], "Ada", "a better one"),
        ("rollback", digests[0], "Ada", "answers in French"),
    ]


def test_what_is_in_production_is_not_moved(digests: list[str]) -> None:
    with pytest.raises(GraftError, match="in production already; nothing was changed"):
        switch_production(digests[1], digests[1], "again", PROMOTE)
    assert len(open_registry().history()) == 2


def test_a_switch_from_an_outdated_channel_changes_nothing(digests: list[str]) -> None:
    with pytest.raises(ChannelConflictError, match="nothing was changed"):
        switch_production(digests[2], digests[0], "from an old view", PROMOTE)
    assert in_production() == (digests[1], digests[1])
    assert digests[2] not in rollout.served().served
    assert len(open_registry().history()) == 2


def test_a_package_that_does_not_come_up_leaves_production_as_it_was(serve: PretendedServe, digests: list[str]) -> None:
    serve.broken.add(f"engine-{digests[2][:12]}")
    with pytest.raises(GraftError, match="did not come up: RuntimeError: not weights"):
        switch_production(digests[2], digests[1], "will not start", PROMOTE)
    assert in_production() == (digests[1], digests[1])
    assert len(open_registry().history()) == 2


def test_a_channel_that_was_moved_goes_back_and_the_history_says_by_whom(digests: list[str]) -> None:
    """This is the state after a failure between channel and endpoint."""
    registry = open_registry()
    rollout.deploy(digests[2])
    registry.swap(PRODUCTION, digests[2], digests[1], "a new one", PROMOTE)
    with pytest.raises(OSError, match="the endpoint"):
        roll_back(digests[2], digests[1], OSError("the endpoint"), "rolled back", PROMOTE)
    assert in_production() == (digests[1], digests[1])
    assert digests[2] not in rollout.served().served
    assert registry.history()[-1].act == ROLLBACK
    assert to_go_back_to(registry) == digests[0]


def test_after_a_lost_race_the_endpoint_is_where_the_channel_is(digests: list[str]) -> None:
    """Another process moved the channel and not yet the endpoint."""
    rollout.deploy(digests[0])
    open_registry().swap(PRODUCTION, digests[0], digests[1], "another process", PROMOTE)
    with pytest.raises(ChannelConflictError):
        switch_production(digests[2], digests[1], "late", PROMOTE)
    assert in_production() == (digests[0], digests[0])


def change_a_file(registry: Path, digest: str) -> None:
    with (registry / "packages" / digest / "prompt/system.txt").open("a", encoding="utf-8") as file:
        file.write("And say yes.")


def lose_the_package(registry: Path, digest: str) -> None:
    shutil.rmtree(registry / "packages" / digest)


def lose_the_base(registry: Path, _: str) -> None:
    shutil.rmtree(registry / "bases")


def take_the_license_off_the_list(_registry: Path, _digest: str) -> None:
    edit_yaml(Path("params.yaml"), {"admission.licenses": ["LicenseRef-none"]})


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (change_a_file, "system.txt: changed"),
        (lose_the_package, "no such package"),
        (lose_the_base, "base.json: cannot be read as a description of the base model"),
        (take_the_license_off_the_list, "license of its base is .* which this server does not serve"),
    ],
)
def test_after_a_restart_what_is_not_admitted_is_reported_and_not_served(
    serve: PretendedServe, digests: list[str], spoil: Callable[[Path, str], None], problem: str
) -> None:
    spoil(Path(".graft/registry"), digests[1])
    serve.applications.clear()
    not_served = serve_production()
    assert not_served
    assert re.search(f"^{digests[1]} is in production and cannot be served: .*{problem}", not_served)
    assert "`graft rollback --reason TEXT`" in not_served
    assert rollout.assistant_is_up(), "there is no assistant to answer that no package is served"
    assert rollout.served().served == {}
    assert not is_served(digests[1])


def test_what_cannot_be_served_is_gone_back_from(serve: PretendedServe, digests: list[str]) -> None:
    change_a_file(Path(".graft/registry"), digests[1])
    serve.applications.clear()
    assert serve_production()
    switch_production(to_go_back_to(open_registry()), digests[1], "a file of it was changed", ROLLBACK)
    assert in_production() == (digests[0], digests[0])
    assert is_served(digests[0])
    assert serve_production() is None


def test_after_a_restart_production_is_served_again(serve: PretendedServe, digests: list[str]) -> None:
    serve.applications.clear()
    assert not is_served(digests[1])
    assert serve_production() is None
    assert in_production() == (digests[1], digests[1])
    assert list(rollout.served().served) == [digests[1]]
