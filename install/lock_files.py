"""The lock files: every package that is installed, at one version, with the sha256 of each file that may be taken.

    requirements-torch.lock    torch, whose build differs by machine, and setuptools; installed first
    requirements-cuda.lock     the CUDA libraries of PyPI's torch for Linux; installed where that build is
    requirements.lock          all that runs: `make run` and every command of `graft`
    requirements-dev.lock      the same, and all that tests, checks and the documentation need

They hold for every Python in `PYTHONS` and every platform in `PLATFORMS`. `install/write_locks.py` writes them.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

RUNTIME, DEV = "requirements.lock", "requirements-dev.lock"
TORCH, CUDA = "requirements-torch.lock", "requirements-cuda.lock"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("Linux x86_64", "Linux aarch64", "macOS arm64")
OLDEST_GLIBC = {"x86_64": 31, "aarch64": 35}
"""The minor version of the oldest glibc 2 that all wheels for Linux fit."""
WITHOUT_CUDA, MODELS = ", without CUDA", "models and data of the first release"
"""In the heads of the locks: suffix of a build of torch, and name of a download."""
SOURCE_ONLY = frozenset({"antlr4-python3-runtime"})
"""Packages without wheels, which are built here from their source archive; every other one is a wheel."""

_REQUIREMENT = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?(?: \\)?")
_HASH = re.compile(r" +--hash=sha256:([0-9a-f]{64})(?: \\)?")
_SIZE = re.compile(r"# (\d+) MB: (.+)")


@dataclass(frozen=True)
class Locked:
    """One package of a lock file."""

    name: str
    """Its normalized name."""
    version: str
    """Its only version."""
    marker: str
    """The environments that need it, as a marker; empty for all."""
    hashes: tuple[str, ...]
    """The sha256 of each file that may be installed."""

    def with_hashes(self, hashes: Iterable[str]) -> Locked:
        """The same package with other files."""
        return replace(self, hashes=tuple(hashes))

    def lines(self) -> str:
        """The entry as pip reads it."""
        head = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        return " \\\n".join([head, *(f"    --hash=sha256:{digest}" for digest in self.hashes)]) + "\n"


def read_lock(path: Path) -> list[Locked]:
    """The entries of a lock file.

    Raises:
        ValueError: a line is none that `write_locks.py` writes.
    """
    found: list[Locked] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if digest := _HASH.fullmatch(line):
            last = found.pop()
            found.append(last.with_hashes((*last.hashes, digest[1])))
        elif entry := _REQUIREMENT.fullmatch(line):
            found.append(Locked(entry["name"], entry["version"], entry["marker"] or "", ()))
        elif line and not line.startswith(("#", "--only-binary ", "--no-binary ")):
            raise ValueError(f"{path}: not a line of a lock file: {line}")
    return found


def sizes(path: Path) -> dict[str, int]:
    """The downloads that the head of a lock lists, in MB; most are named like `Linux x86_64, Python 3.11`."""
    return dict(_read_sizes(path))


def _read_sizes(path: Path) -> Iterator[tuple[str, int]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := _SIZE.fullmatch(line):
            yield found[2], int(found[1])


def this_platform() -> str:
    """This machine, by the name that `PLATFORMS` has for it."""
    return f"{'macOS' if sys.platform == 'darwin' else platform.system()} {platform.machine()}"
