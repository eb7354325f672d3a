"""The registry: nothing published changes, and of two swaps at once one wins."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import GraftError
from tasks.files import sha256_tree, write_text
from tasks.registry import PRODUCTION, ChannelConflictError, LocalRegistry


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def digests(registry: LocalRegistry, build_package: Callable[..., Any]) -> list[str]:
    """Three published packages on one base."""
    built = [build_package(adapter) for adapter in ("one", "two", "three")]
    return [registry.publish(b.package, b.base, b.evaluation) for b in built]


def test_a_published_package_is_found_with_its_base_and_evaluation(
    registry: LocalRegistry, build_package: Callable[..., Any]
) -> None:
    built = build_package()
    digest = registry.publish(built.package, built.base, built.evaluation)
    assert digest == built.digest
    assert sha256_tree(registry.package(digest)) == sha256_tree(built.package)
    assert sha256_tree(registry.base(digest)) == sha256_tree(built.base)
    assert sha256_tree(registry.evaluation(digest)) == sha256_tree(built.evaluation)
    registry.verify(digest)


def test_publishing_again_changes_nothing(registry: LocalRegistry, build_package: Callable[..., Any]) -> None:
    built = build_package()
    registry.publish(built.package, built.base, built.evaluation)
    before = sha256_tree(registry.root)
    write_text(built.package / "provenance.json", '{"built_at": "later"}')
    registry.publish(built.package, built.base, built.evaluation)
    assert sha256_tree(registry.root) == before


def test_packages_share_their_base(registry: LocalRegistry, digests: list[str]) -> None:
    assert len({registry.base(digest) for digest in digests}) == 1
    assert len(list((registry.root / "bases").iterdir())) == 1


def test_a_tampered_package_is_not_published(registry: LocalRegistry, build_package: Callable[..., Any]) -> None:
    built = build_package()
    write_text(built.package / "adapter/adapter.safetensors", "tampered")
    with pytest.raises(GraftError, match="changed"):
        registry.publish(built.package, built.base, built.evaluation)
    assert not registry.root.exists() or not sha256_tree(registry.root)


@pytest.mark.parametrize("part", ["package", "base"])
def test_a_package_tampered_with_in_the_registry_is_not_verified(
    registry: LocalRegistry, digests: list[str], part: str
) -> None:
    folder: Path = getattr(registry, part)(digests[0])
    file = next(path for path in sorted(folder.rglob("*.safetensors")))
    write_text(file, "tampered")
    with pytest.raises(GraftError, match="changed"):
        registry.verify(digests[0])


def test_a_rewritten_manifest_is_not_verified(registry: LocalRegistry, digests: list[str]) -> None:
    manifest = registry.package(digests[0]) / "manifest.json"
    write_text(manifest, manifest.read_text(encoding="utf-8").replace("test-desk", "fake-desk"))
    with pytest.raises(GraftError, match="the manifest's digest is"):
        registry.verify(digests[0])


def test_an_unknown_package_is_neither_found_nor_promoted(registry: LocalRegistry) -> None:
    with pytest.raises(GraftError, match="no such package"):
        registry.package("f" * 64)
    with pytest.raises(GraftError, match="no such package"):
        registry.swap(PRODUCTION, "f" * 64, None, "test")
    assert registry.channel() is None


def test_a_channel_points_at_the_last_swap_and_remembers_the_one_before(
    registry: LocalRegistry, digests: list[str]
) -> None:
    assert registry.channel() is None
    registry.swap(PRODUCTION, digests[0], None, "first")
    second = registry.swap(PRODUCTION, digests[1], digests[0], "second")
    assert registry.channel() == second
    assert (second.digest, second.previous, second.reason) == (digests[1], digests[0], "second")
    assert registry.channel("canary") is None


def test_history_keeps_every_swap_and_only_grows(registry: LocalRegistry, digests: list[str]) -> None:
    path = registry.root / "history.jsonl"
    assert registry.history() == []
    seen, current = b"", None
    for turn, digest in enumerate([*digests, digests[0]]):
        registry.swap(PRODUCTION, digest, current, f"turn {turn}")
        current = digest
        assert path.read_bytes().startswith(seen)
        seen = path.read_bytes()
    assert [swap.digest for swap in registry.history()] == [*digests, digests[0]]
    assert [swap.previous for swap in registry.history()] == [None, *digests]


def test_a_swap_killed_before_its_line_is_written_down_by_the_next(
    registry: LocalRegistry, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.swap(PRODUCTION, digests[0], None, "first")
    lines = (registry.root / "history.jsonl").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.registry.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        registry.swap(PRODUCTION, digests[1], digests[0], "second")
    monkeypatch.undo()
    (registry.root / "history.jsonl").write_bytes(lines)  # nothing had reached the disk yet
    assert registry.channel().digest == digests[1]  # type: ignore[union-attr]
    assert [swap.reason for swap in registry.history()] == ["first", "second"]
    registry.swap(PRODUCTION, digests[2], digests[1], "third")
    assert [swap.reason for swap in registry.history()] == ["first", "second", "third"]
    assert len((registry.root / "history.jsonl").read_bytes().splitlines()) == 3


def test_a_swap_from_a_stale_view_changes_nothing(registry: LocalRegistry, digests: list[str]) -> None:
    registry.swap(PRODUCTION, digests[0], None, "first")
    before = sha256_tree(registry.root)
    with pytest.raises(ChannelConflictError, match="nothing was changed"):
        registry.swap(PRODUCTION, digests[1], None, "late")
    assert sha256_tree(registry.root) == before


def test_of_many_threads_one_wins(registry: LocalRegistry, digests: list[str]) -> None:
    registry.swap(PRODUCTION, digests[0], None, "first")
    start = threading.Barrier(8)
    outcomes: list[str] = []

    def swap(number: int) -> None:
        start.wait()
        try:
            registry.swap(PRODUCTION, digests[1 + number % 2], digests[0], f"thread {number}")
            outcomes.append(f"thread {number}")
        except ChannelConflictError:
            outcomes.append("conflict")

    threads = [threading.Thread(target=swap, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    channel = registry.channel()
    assert channel is not None
    assert sorted(outcomes) == ["conflict"] * 7 + [channel.reason]
    assert len(registry.history()) == 2


def swap_in_process(root: Path, digest: str, expected: str, number: int, barrier: object) -> None:
    """Try one swap; the exit status is 0 for a swap and 3 for a conflict."""
    barrier.wait()  # type: ignore[attr-defined]
    try:
        LocalRegistry(root).swap(PRODUCTION, digest, expected, f"process {number}")
    except ChannelConflictError:
        raise SystemExit(3) from None


def test_of_two_processes_one_wins(registry: LocalRegistry, digests: list[str]) -> None:
    registry.swap(PRODUCTION, digests[0], None, "first")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=swap_in_process, args=(registry.root, digests[1 + n], digests[0], n, barrier))
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
