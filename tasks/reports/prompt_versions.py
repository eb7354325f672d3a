"""Prompt versions: prompts found by name, in production, a package, a git revision, a folder or the working tree.

A prompt's version is the hash of its content (`PromptSource.digest`), regardless of its location.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.paths import BUILT_BASE, PROMPTS
from tasks.model_package.manifest import PROMPT
from tasks.prompt.template import FILES, PromptSource
from tasks.registry.registry import PRODUCTION, Registry

WORKING_TREE = "."
SHOWN_DIGITS = 12
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_NAMES = (
    f"`{PRODUCTION}`, at least 8 digits of a published package's or prompt's digest (`graft releases` lists packages), "
    f"a git revision, a folder with {', '.join(FILES)}, or `{WORKING_TREE}` for {PROMPTS}"
)


@dataclass(frozen=True)
class PromptVersion:
    """A prompt and its origin."""

    source: PromptSource
    """The content."""
    origin: str
    """The origin, for a person."""
    base: Path
    """Folder of the base model whose tokenizer reads the prompt; it may be absent."""
    package: str | None = None
    """Digest of the package, if the prompt was named by one."""

    def __str__(self) -> str:
        return f"{self.source.digest[:SHOWN_DIGITS]}, {self.origin}"


def find_prompt(name: str, registry: Registry, here: Path) -> PromptVersion:
    """The prompt of the name `name`; a relative folder is resolved against `here`.

    Raises:
        GraftError: no prompt or several have that name, or its files are missing or invalid.
    """
    if name == WORKING_TREE:
        return PromptVersion(PromptSource.read(PROMPTS), str(PROMPTS), BUILT_BASE)
    if name == PRODUCTION:
        channel = registry.channel(PRODUCTION)
        if channel is None:
            raise GraftError(f"{PRODUCTION}: no package was released yet; `graft run` does that. Or name {_NAMES}")
        return _of_package(channel.digest, registry, f"{PRODUCTION}, ")
    if _DIGEST.fullmatch(name) and (package := _package_by_prefix(name, registry)):
        return _of_package(package, registry)
    folder = here / Path(name).expanduser()
    if folder.is_dir():
        return PromptVersion(PromptSource.read(folder), name, BUILT_BASE)
    if commit := _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"):
        return _of_commit(commit.strip(), name)
    raise GraftError(f"{name}: no such prompt; a prompt is named by {_NAMES}")


def published_prompt(package: str, registry: Registry) -> str | None:
    """The version of the prompt in a published package; None where its files cannot be read."""
    try:
        return PromptSource.read(registry.package(package) / PROMPT).digest
    except GraftError:
        return None


def _package_by_prefix(prefix: str, registry: Registry) -> str | None:
    """A published package whose digest, or whose prompt's digest, begins with `prefix`.

    Of several packages with the same prompt any one is returned.
    """
    matches = [package for package in registry.packages() if package.startswith(prefix)]
    if len(matches) > 1:
        raise GraftError(f"{prefix}: several packages begin with these digits; name one of {', '.join(matches)}")
    if matches:
        return matches[0]
    versions = {package: published_prompt(package, registry) or "" for package in registry.packages()}
    by_version = {version: package for package, version in versions.items() if version.startswith(prefix)}
    if len(by_version) > 1:
        raise GraftError(
            f"{prefix}: several prompts begin with these digits; name one of {', '.join(sorted(by_version))}"
        )
    return next(iter(by_version.values()), None)


def _of_package(digest: str, registry: Registry, channel: str = "") -> PromptVersion:
    source = PromptSource.read(registry.package(digest) / PROMPT)
    return PromptVersion(source, f"{channel}package {digest[:SHOWN_DIGITS]}", registry.base(digest), digest)


def _of_commit(commit: str, name: str) -> PromptVersion:
    origin = f"revision {name}" if commit.startswith(name) else f"revision {name} ({commit[:SHOWN_DIGITS]})"
    contents = {file: _git("show", f"{commit}:./{(PROMPTS / file).as_posix()}") for file in FILES}
    texts = {file: text for file, text in contents.items() if text is not None}
    if absent := [file for file in FILES if file not in texts]:
        raise GraftError(f"{origin}: no {', '.join(absent)} in {PROMPTS} of that revision; name one with all files")
    return PromptVersion(PromptSource.parse(texts, f"{origin}: {PROMPTS}"), origin, BUILT_BASE)


def _git(*arguments: str) -> str | None:
    """The output of a git command, or None where it fails or git is not installed."""
    try:
        argv = ["git", *arguments]
        result = subprocess.run(argv, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    except OSError:
        return None
    return result.stdout if result.returncode == 0 else None
