"""Prompts by name: in production, in a published package, in a git revision, in a folder, in the working tree.

A prompt's version is the hash of its content (`PromptSource.digest`), wherever it lies.
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
    f"`{PRODUCTION}`, 8 digits or more of a published package's or prompt's digest (`graft releases` lists packages), "
    f"a git revision, a folder with {', '.join(FILES)}, or `{WORKING_TREE}` for {PROMPTS}"
)


@dataclass(frozen=True)
class PromptVersion:
    """A prompt and where it was found.

    `base` is the folder of a base model whose tokenizer reads it, and may be absent; `package` is
    the digest of the package that was named, or None where none was.
    """

    source: PromptSource
    origin: str
    base: Path
    package: str | None = None

    def __str__(self) -> str:
        return f"{self.source.digest[:SHOWN_DIGITS]}, {self.origin}"


def find_prompt(name: str, registry: Registry, here: Path) -> PromptVersion:
    """The prompt called `name`; a relative folder is looked for below `here`.

    Raises:
        GraftError: there is none of that name, several, or its files are missing or broken.
    """
    if name == WORKING_TREE:
        return PromptVersion(PromptSource.read(PROMPTS), str(PROMPTS), BUILT_BASE)
    if name == PRODUCTION:
        channel = registry.channel(PRODUCTION)
        if channel is None:
            raise GraftError(f"{PRODUCTION}: nothing was released yet; `graft run` does that. A prompt is {_NAMES}")
        return _of_package(channel.digest, registry, f"{PRODUCTION}, ")
    if _DIGEST.fullmatch(name) and (package := _package_by_prefix(name, registry)):
        return _of_package(package, registry)
    folder = here / Path(name).expanduser()
    if folder.is_dir():
        return PromptVersion(PromptSource.read(folder), name, BUILT_BASE)
    if commit := _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"):
        return _of_commit(commit.strip(), name)
    raise GraftError(f"{name}: no such prompt; name one by {_NAMES}")


def published_prompt(package: str, registry: Registry) -> str | None:
    """The version of the prompt in a published package; None where its files cannot be read."""
    try:
        return PromptSource.read(registry.package(package) / PROMPT).digest
    except GraftError:
        return None


def _package_by_prefix(prefix: str, registry: Registry) -> str | None:
    """The published package whose digest, or whose prompt's, begins so; any of those with one and the same prompt."""
    named = [package for package in registry.packages() if package.startswith(prefix)]
    if len(named) > 1:
        raise GraftError(f"{prefix}: several packages begin so, give more digits: {', '.join(named)}")
    if named:
        return named[0]
    versions = {package: published_prompt(package, registry) or "" for package in registry.packages()}
    holding = {version: package for package, version in versions.items() if version.startswith(prefix)}
    if len(holding) > 1:
        raise GraftError(f"{prefix}: several prompts begin so, give more digits: {', '.join(sorted(holding))}")
    return next(iter(holding.values()), None)


def _of_package(digest: str, registry: Registry, how: str = "") -> PromptVersion:
    source = PromptSource.read(registry.package(digest) / PROMPT)
    return PromptVersion(source, f"{how}package {digest[:SHOWN_DIGITS]}", registry.base(digest), digest)


def _of_commit(commit: str, name: str) -> PromptVersion:
    origin = f"revision {name}" if commit.startswith(name) else f"revision {name} ({commit[:SHOWN_DIGITS]})"
    found = {file: _git("show", f"{commit}:./{(PROMPTS / file).as_posix()}") for file in FILES}
    texts = {file: text for file, text in found.items() if text is not None}
    if absent := [file for file in FILES if file not in texts]:
        raise GraftError(f"{origin}: no {', '.join(absent)} in {PROMPTS} there, so there is no prompt to compare")
    return PromptVersion(PromptSource.parse(texts, f"{origin}: {PROMPTS}"), origin, BUILT_BASE)


def _git(*arguments: str) -> str | None:
    """What git prints, or None where it fails or is not there."""
    try:
        argv = ["git", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
