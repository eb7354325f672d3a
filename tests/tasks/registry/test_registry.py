"""The registry, in a folder and in S3: no published file changes, and of two concurrent swaps one wins.

It is opened where `deployments/registry.yaml` says, and S3's client only for S3. Also covers
`tasks/registry/folder_store.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.core.errors import GraftError
from tasks.core.files import sha256_tree, write_text
from tasks.core.paths import REGISTRY
from tasks.registry.registry import (
    PRODUCTION,
    REGISTRY_YAML,
    Act,
    ChannelConflictError,
    LocalRegistry,
    Registry,
    open_registry,
)
from tests.conftest import ROOT
from tests.support.registries import RegistryLocation

CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> RegistryLocation:
    return request.getfixturevalue("s3_location") if request.param == "s3" else RegistryLocation(tmp_path)


@pytest.fixture
def registry(location: RegistryLocation) -> Registry:
    return location.open()


@pytest.fixture
def digests(registry: Registry, build_package: Callable[..., Any]) -> list[str]:
    """Three published packages on one base."""
    built = [build_package(adapter) for adapter in ("one", "two", "three")]
    return [registry.publish(b.package, b.base, b.evaluation) for b in built]


def test_a_published_package_is_found_with_its_base_and_evaluation(
    location: RegistryLocation, registry: Registry, build_package: Callable[..., Any]
) -> None:
    built = build_package()
    digest = registry.publish(built.package, built.base, built.evaluation)
    assert digest == built.digest
    for found in (registry, location.open("elsewhere")):
        assert sha256_tree(found.package(digest)) == sha256_tree(built.package)
        assert sha256_tree(found.base(digest)) == sha256_tree(built.base)
        assert sha256_tree(found.evaluation(digest)) == sha256_tree(built.evaluation)
        found.verify(digest)
        assert found.packages() == [digest]


def test_publishing_again_changes_nothing(
    location: RegistryLocation, registry: Registry, build_package: Callable[..., Any]
) -> None:
    built = build_package()
    registry.publish(built.package, built.base, built.evaluation)
    before = location.objects()
    write_text(built.package / "provenance.json", '{"built_at": "later"}')
    write_text(built.evaluation / "scores.json", "{}")
    registry.publish(built.package, built.base, built.evaluation)
    assert location.objects() == before


def test_packages_share_their_base(location: RegistryLocation, registry: Registry, digests: list[str]) -> None:
    assert len({registry.base(digest) for digest in digests}) == 1
    assert len({key.split("/")[1] for key in location.objects() if key.startswith("bases/")}) == 1
    assert registry.packages() == sorted(digests)


def test_a_tampered_package_is_not_published(
    location: RegistryLocation, registry: Registry, build_package: Callable[..., Any]
) -> None:
    built = build_package()
    write_text(built.package / "adapter/adapter.safetensors", "tampered")
    with pytest.raises(GraftError, match="changed"):
        registry.publish(built.package, built.base, built.evaluation)
    assert not location.objects()


@pytest.mark.parametrize("part", ["package", "base"])
def test_a_package_tampered_with_in_the_registry_is_not_verified(
    registry: Registry, digests: list[str], part: str
) -> None:
    folder: Path = getattr(registry, part)(digests[0])
    file = next(path for path in sorted(folder.rglob("*.safetensors")))
    write_text(file, "tampered")
    with pytest.raises(GraftError, match="changed"):
        registry.verify(digests[0])


def test_a_rewritten_manifest_is_not_verified(registry: Registry, digests: list[str]) -> None:
    manifest = registry.package(digests[0]) / "manifest.json"
    write_text(manifest, manifest.read_text(encoding="utf-8").replace("test-package", "fake-package"))
    with pytest.raises(GraftError, match="the manifest's digest is"):
        registry.verify(digests[0])


def test_an_unknown_package_is_neither_found_nor_promoted(registry: Registry) -> None:
    with pytest.raises(GraftError, match="no such package"):
        registry.package("f" * 64)
    with pytest.raises(GraftError, match="no such package"):
        registry.swap(PRODUCTION, "f" * 64, None, "test")
    assert registry.channel() is None
    assert registry.packages() == []
    assert not registry.evaluation("f" * 64).exists()


def publish_until(location: RegistryLocation, built: Any, number: int) -> None:
    """Publish, and be killed before rename, or upload, number `number`."""
    registry, done = location.open(), 0

    def count(*_: object, **__: object) -> None:
        nonlocal done
        done += 1
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if location.url:
        registry.store.client.meta.events.register("before-send.s3.PutObject", count)  # type: ignore[attr-defined]
    else:
        sys.addaudithook(lambda event, _: count() if event == "os.rename" else None)
    registry.publish(built.package, built.base, built.evaluation)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
def test_a_publish_that_is_killed_leaves_no_package_and_is_completed_by_the_next(
    location: RegistryLocation, build_package: Callable[..., Any], fraction: float
) -> None:
    built = build_package()
    steps = 6 if location.url else 3  # files, or folders
    process = CONTEXT.Process(target=publish_until, args=(location, built, 1 + round(fraction * (steps - 1))))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    registry = location.open()
    assert registry.packages() == []
    with pytest.raises(GraftError, match="no such package"):
        registry.package(built.digest)
    left = location.objects()
    registry.publish(built.package, built.base, built.evaluation)
    found = location.open("elsewhere")
    found.verify(built.digest)
    assert sha256_tree(found.evaluation(built.digest)) == sha256_tree(built.evaluation)
    whole = {key: value for key, value in left.items() if not key.split("/")[1].startswith(".")}  # no temporary folder
    assert whole.items() <= location.objects().items(), "what was there is not sent again"
    assert bool(whole) == (fraction > 0)


def test_a_channel_points_at_the_last_swap_and_remembers_the_one_before(registry: Registry, digests: list[str]) -> None:
    assert registry.channel() is None
    registry.swap(PRODUCTION, digests[0], None, "first")
    act = Act(action="promote", who="Ada")
    second = registry.swap(PRODUCTION, digests[1], digests[0], "second", act)
    assert registry.channel() == second
    assert (second.digest, second.previous, second.reason, second.act) == (digests[1], digests[0], "second", act)
    assert registry.channel("canary") is None


def test_history_keeps_every_swap_and_only_grows(
    location: RegistryLocation, registry: Registry, digests: list[str]
) -> None:
    assert registry.history() == []
    seen: dict[str, str] = {}
    current = None
    for turn, digest in enumerate([*digests, digests[0]]):
        registry.swap(PRODUCTION, digest, current, f"turn {turn}")
        current = digest
        written = {key: value for key, value in location.objects().items() if key.startswith("history/")}
        assert seen.items() < written.items()
        seen = written
    assert [swap.digest for swap in registry.history()] == [*digests, digests[0]]
    assert [swap.previous for swap in registry.history()] == [None, *digests]


def swap_until(location: RegistryLocation, digest: str, expected: str, number: int) -> None:
    """Swap, and be killed before write number `number`."""
    registry, done = location.open(), 0
    write = registry.store.write

    def count(*arguments: Any) -> bool:
        nonlocal done
        done += 1
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*arguments)

    registry.store.write = count  # type: ignore[method-assign]
    registry.swap(PRODUCTION, digest, expected, "killed")


@pytest.mark.parametrize(("number", "happened"), [(1, False), (2, False), (3, True)])
def test_a_swap_that_is_killed_happened_or_did_not_and_the_history_knows(
    location: RegistryLocation, registry: Registry, digests: list[str], number: int, happened: bool
) -> None:
    """The writes of a swap: the previous swap into the history, the channel, this swap into the history."""
    registry.swap(PRODUCTION, digests[0], None, "first")
    process = CONTEXT.Process(target=swap_until, args=(location, digests[1], digests[0], number))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    reasons = ["first", "killed"] if happened else ["first"]
    channel = registry.channel()
    assert channel is not None
    assert channel.digest == digests[happened]
    assert [swap.reason for swap in registry.history()] == reasons
    registry.swap(PRODUCTION, digests[2], channel.digest, "next")
    assert [swap.reason for swap in registry.history()] == [*reasons, "next"]
    assert len([key for key in location.objects() if key.startswith("history/")]) == len(reasons) + 1


def test_a_swap_is_later_than_the_one_before_whatever_the_clock_says(registry: Registry, digests: list[str]) -> None:
    first = registry.swap(PRODUCTION, digests[0], None, "by a machine whose clock is ahead")
    ahead = first.model_copy(update={"at": first.at.replace(year=first.at.year + 1)})
    stored = registry.store.read("channels/production.json")
    assert stored is not None
    assert registry.store.write("channels/production.json", ahead.model_dump_json().encode(), stored.version)
    second = registry.swap(PRODUCTION, digests[1], digests[0], "second")
    assert second.at > ahead.at
    assert registry.history()[-1] == second


def test_a_swap_from_a_stale_view_changes_nothing(
    location: RegistryLocation, registry: Registry, digests: list[str]
) -> None:
    registry.swap(PRODUCTION, digests[0], None, "first")
    before = location.objects()
    with pytest.raises(ChannelConflictError, match="nothing was changed"):
        registry.swap(PRODUCTION, digests[1], None, "late")
    assert location.objects() == before


@pytest.mark.parametrize("first", [True, False], ids=["first swap", "later swap"])
def test_of_many_threads_one_wins(registry: Registry, digests: list[str], first: bool) -> None:
    expected = None if first else digests[0]
    if not first:
        registry.swap(PRODUCTION, digests[0], None, "first")
    start = threading.Barrier(8)
    results: list[str] = []

    def swap(number: int) -> None:
        start.wait()
        try:
            registry.swap(PRODUCTION, digests[1 + number % 2], expected, f"thread {number}")
            results.append(f"thread {number}")
        except ChannelConflictError:
            results.append("conflict")

    threads = [threading.Thread(target=swap, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    channel = registry.channel()
    assert channel is not None
    assert sorted(results) == ["conflict"] * 7 + [channel.reason]
    assert len(registry.history()) == 1 + (not first)


def swap_in_process(location: RegistryLocation, digest: str, expected: str, number: int, barrier: object) -> None:
    """Try one swap; the exit status is 0 for a swap and 3 for a conflict."""
    registry = location.open()
    barrier.wait()  # type: ignore[attr-defined]
    try:
        registry.swap(PRODUCTION, digest, expected, f"process {number}")
    except ChannelConflictError:
        raise SystemExit(3) from None


def test_of_two_processes_one_wins(location: RegistryLocation, registry: Registry, digests: list[str]) -> None:
    registry.swap(PRODUCTION, digests[0], None, "first")
    barrier = CONTEXT.Barrier(2)
    processes = [
        CONTEXT.Process(target=swap_in_process, args=(location, digests[1 + n], digests[0], n, barrier))
        for n in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert sorted(process.exitcode for process in processes) == [0, 3]
    winner = next(n for n, process in enumerate(processes) if process.exitcode == 0)
    channel = registry.channel()
    assert channel is not None
    assert (channel.digest, channel.reason) == (digests[1 + winner], f"process {winner}")


def test_the_history_of_a_registry_from_before_is_still_read(tmp_path: Path, build_package: Callable[..., Any]) -> None:
    built = [build_package(adapter) for adapter in ("one", "two")]
    registry = LocalRegistry(tmp_path / "registry")
    one, two = (registry.publish(b.package, b.base, b.evaluation) for b in built)
    swap = f'{{"name":"production","digest":"{one}","previous":null,"at":"2026-01-31T12:00:00Z","reason":"old"}}\n'
    write_text(tmp_path / "registry/history.jsonl", swap)
    write_text(tmp_path / "registry/channels/production.json", swap)
    registry.swap(PRODUCTION, two, one, "new")
    assert [(swap.reason, swap.act) for swap in registry.history()] == [("old", None), ("new", None)]


def configure(root: Path, **registry: Any) -> Path:
    """A root whose registry is configured so."""
    (root / "deployments").mkdir(exist_ok=True)
    (root / REGISTRY_YAML).write_text(yaml.safe_dump(registry), encoding="utf-8")
    return root


def test_as_shipped_it_is_a_folder_of_the_repository_and_needs_no_boto3(tmp_path: Path) -> None:
    (tmp_path / "deployments").mkdir()
    shutil.copy(ROOT / REGISTRY_YAML, tmp_path / REGISTRY_YAML)
    code = (
        "import sys; from pathlib import Path; from tasks.registry.registry import open_registry;"
        "print(open_registry(Path(sys.argv[1])).store.where, 'boto3' in sys.modules)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path.resolve() / REGISTRY), "False"]


def test_a_folder_may_lie_elsewhere(tmp_path: Path) -> None:
    root = configure(tmp_path, location=str(tmp_path / "shared"), endpoint=None)
    assert open_registry(root).store.where == str(tmp_path.resolve() / "shared")


def test_in_s3_it_is_where_the_settings_say(s3_location: RegistryLocation, tmp_path: Path) -> None:
    root = configure(tmp_path, location=s3_location.url, endpoint=s3_location.endpoint)
    registry = open_registry(root)
    assert registry.store.where == s3_location.url
    assert registry.packages() == []
    assert registry.evaluation("f" * 64) == root.resolve() / REGISTRY / "evaluations" / ("f" * 64)


@pytest.mark.parametrize(
    ("registry", "problem"),
    [
        ({"location": ".graft/registry"}, "endpoint: Field required"),
        ({"location": "", "endpoint": None}, "location: "),
        ({"location": "a", "endpoint": None, "bucket": "b"}, "bucket: "),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, registry: dict[str, Any], problem: str) -> None:
    with pytest.raises(GraftError, match=problem):
        open_registry(configure(tmp_path, **registry))
