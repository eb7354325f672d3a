"""Tests of prompt versions: a prompt is version_found by each kind of name, and an unknown name is one clear error."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import GraftError
from tasks.core.files import write_text
from tasks.core.paths import PROMPTS
from tasks.prompt.template import PromptSource
from tasks.registry.registry import PRODUCTION, LocalRegistry
from tasks.reports.prompt_versions import find_prompt


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def set_system(folder: Path, text: str) -> str:
    """Change a prompt folder's system text; return the new version."""
    write_text(folder / "system.txt", text)
    return PromptSource.read(folder).digest


@pytest.fixture
def registry(tmp_path: Path, tiny_prompts: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    """An empty registry; the working directory is a repository with one commit and `data/prompts`."""
    repository = tmp_path / "repository"
    shutil.copytree(tiny_prompts, repository / PROMPTS)
    monkeypatch.chdir(repository)
    git("init", "--quiet", "--initial-branch=main", ".")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def release(registry: LocalRegistry, build_package: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """A function that publishes a package whose prompt has a system text, and returns its digest."""

    def publish(system: str, adapter: str) -> str:
        prompt = tmp_path / f"prompt-{adapter}"
        shutil.copytree(PROMPTS, prompt)
        set_system(prompt, system)
        built = build_package(adapter, prompt=prompt)
        return registry.publish(built.package, built.base, built.evaluation)

    return publish


def test_the_working_tree(registry: LocalRegistry, tmp_path: Path) -> None:
    version = set_system(PROMPTS, "Be kind.")
    version_found = find_prompt(".", registry, tmp_path)  # from any working directory
    assert (version_found.source.digest, version_found.origin, version_found.package) == (version, "data/prompts", None)


def test_production_and_a_package_by_a_prefix_of_its_digest(
    registry: LocalRegistry, release: Callable[..., str], tmp_path: Path
) -> None:
    old, new = release("Be old.", "one"), release("Be new.", "two")
    registry.swap(PRODUCTION, old, None, "first")
    version_found = find_prompt("production", registry, tmp_path)
    assert (version_found.source.system, version_found.package) == ("Be old.", old)
    assert version_found.origin == f"production, package {old[:12]}"
    assert version_found.base == registry.base(old)
    for name in (new, new[:8]):
        version_found = find_prompt(name, registry, tmp_path)
        assert (version_found.source.system, version_found.package) == ("Be new.", new)


def test_a_published_prompt_by_a_prefix_of_its_version(
    registry: LocalRegistry, release: Callable[..., str], tmp_path: Path
) -> None:
    release("Be old.", "one")
    twice = {release("Be new.", "two"), release("Be new.", "three")}
    version = set_system(PROMPTS, "Be new.")
    version_found = find_prompt(version[:8], registry, tmp_path)
    assert version_found.source.digest == version
    assert version_found.package in twice


def test_production_before_any_release(registry: LocalRegistry, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"no package was released yet; `graft run`"):
        find_prompt("production", registry, tmp_path)


def test_an_ambiguous_prefix_is_refused_with_what_it_may_mean(registry: LocalRegistry, tmp_path: Path) -> None:
    for digest in ("a" * 63 + "b", "a" * 64):
        write_text(tmp_path / "registry/packages" / digest / "manifest.json", "{}")
    with pytest.raises(GraftError, match=f"several packages begin with these digits.*{'a' * 64}"):
        find_prompt("a" * 8, registry, tmp_path)


def test_a_git_revision_by_any_of_its_names(registry: LocalRegistry, tmp_path: Path) -> None:
    first, version = git("rev-parse", "HEAD"), PromptSource.read(PROMPTS).digest
    set_system(PROMPTS, "Be kind.")
    git("commit", "--quiet", "--all", "--message=second")
    for name in ("HEAD~1", first, first[:10]):
        version_found = find_prompt(name, registry, tmp_path)
        assert version_found.source.digest == version
        assert version_found.origin.startswith(f"revision {name}")
        assert first[:10] in version_found.origin
    assert find_prompt("main", registry, tmp_path).source.system == "Be kind."


def test_a_revision_of_a_repository_in_a_folder_of_a_larger_one(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(PROMPTS, "below/data/prompts")
    set_system(Path("below/data/prompts"), "Be below.")
    git("add", ".")
    git("commit", "--quiet", "--message=second")
    monkeypatch.chdir("below")
    assert find_prompt("HEAD", registry, tmp_path).source.system == "Be below."


def test_a_revision_without_a_prompt_says_what_is_absent(registry: LocalRegistry, tmp_path: Path) -> None:
    git("rm", "--quiet", "data/prompts/tools.json")
    git("commit", "--quiet", "--message=second")
    with pytest.raises(GraftError, match=r"revision HEAD \(\w{12}\): no tools.json in data/prompts"):
        find_prompt("HEAD", registry, tmp_path)


def test_a_revision_with_a_broken_file_is_named(registry: LocalRegistry, tmp_path: Path) -> None:
    write_text(PROMPTS / "tools.json", "not JSON")
    git("commit", "--quiet", "--all", "--message=second")
    with pytest.raises(GraftError, match=r"revision HEAD .*data/prompts/tools.json: expected a list"):
        find_prompt("HEAD", registry, tmp_path)


def test_a_folder_below_where_the_person_stands(registry: LocalRegistry, tiny_prompts: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_prompts, tmp_path / "mine")
    version = set_system(tmp_path / "mine", "Be mine.")
    for name in ("mine", str(tmp_path / "mine")):
        version_found = find_prompt(name, registry, tmp_path)
        assert (version_found.source.digest, version_found.origin) == (version, name)
    (tmp_path / "mine/chat.jinja").unlink()
    with pytest.raises(GraftError, match=r"mine: the prompt needs system.txt, tools.json, chat.jinja"):
        find_prompt("mine", registry, tmp_path)


@pytest.mark.parametrize("name", ["nothing", "deadbeef", "../elsewhere", "--all", "HEAD:data", ""])
def test_an_unknown_name_is_refused_with_all_that_a_name_can_be(
    registry: LocalRegistry, tmp_path: Path, name: str
) -> None:
    with pytest.raises(GraftError) as refused:
        find_prompt(name, registry, tmp_path / "absent")
    for part in (f"{name}: no such prompt", "`production`", "digest", "git revision", "folder", "data/prompts"):
        assert part in str(refused.value)


def test_outside_git_a_name_is_unknown(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "plain")
    with pytest.raises(GraftError, match="HEAD: no such prompt"):
        find_prompt("HEAD", registry, tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GraftError, match="HEAD: no such prompt"):
        find_prompt("HEAD", registry, tmp_path)
