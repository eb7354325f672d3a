"""The registry: published packages by digest, and channels that point at one of them.

.graft/registry/packages/DIGEST/       the package, never changed after publishing
.graft/registry/bases/SHA256/          the base models that packages stand on, once each
.graft/registry/evaluations/DIGEST/    what `evaluate` measured of it
.graft/registry/channels/NAME.json     the digest a channel points at now
.graft/registry/history.jsonl          every swap, in order, never rewritten
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tasks.errors import GraftError
from tasks.files import new_folder, write_text
from tasks.layout import REGISTRY
from tasks.manifest import package_digest, read_manifest, verify_package
from tasks.records import Record

PRODUCTION = "production"
HISTORY = "history.jsonl"


class Channel(Record):
    """A named pointer to a package, and the swap that set it."""

    name: str
    digest: str
    previous: str | None
    at: datetime
    reason: str


class ChannelConflictError(GraftError):
    """The channel was moved by someone else since it was read."""


class LocalRegistry:
    """A registry in a folder on this machine."""

    def __init__(self, root: Path = REGISTRY) -> None:
        self.root = root.resolve()

    def publish(self, package: Path, base: Path, evaluation: Path) -> str:
        """Copy a checked package, its base and its evaluation in; return the digest.

        Publishing the same package again changes nothing.

        Raises:
            GraftError: a file is not what the manifest says.
        """
        manifest = verify_package(package, base)
        digest = package_digest(package)
        for source, target in (
            (base, self.root / "bases" / manifest.base.sha256),
            (package, self.root / "packages" / digest),
            (evaluation, self.root / "evaluations" / digest),
        ):
            if not target.exists():
                with new_folder(target) as folder:
                    shutil.copytree(source, folder, dirs_exist_ok=True)
        return digest

    def package(self, digest: str) -> Path:
        """The folder of a published package.

        Raises:
            GraftError: no such package.
        """
        path = self.root / "packages" / digest
        if not path.is_dir():
            raise GraftError(f"{digest}: no such package in {self.root}")
        return path

    def packages(self) -> list[str]:
        """The digests of all published packages."""
        return sorted(path.name for path in (self.root / "packages").glob("[!.]*"))

    def base(self, digest: str) -> Path:
        """The folder of the base model that a published package stands on."""
        return self.root / "bases" / read_manifest(self.package(digest)).base.sha256

    def evaluation(self, digest: str) -> Path:
        """The folder with a published package's evaluation."""
        return self.root / "evaluations" / digest

    def verify(self, digest: str) -> None:
        """Check a published package byte for byte before it is served."""
        verify_package(self.package(digest), self.base(digest), digest)

    def channel(self, name: str = PRODUCTION) -> Channel | None:
        """Where a channel points, or None before its first swap."""
        path = self.root / "channels" / f"{name}.json"
        return Channel.model_validate_json(path.read_bytes()) if path.is_file() else None

    def swap(self, name: str, digest: str, expected: str | None, reason: str) -> Channel:
        """Point a channel at `digest`, provided it still points at `expected`.

        Raises:
            ChannelConflictError: it points elsewhere by now; nothing was changed.
            GraftError: no such package.
        """
        self.package(digest)
        with self._lock():
            current = self.channel(name)
            found = current.digest if current else None
            if found != expected:
                raise ChannelConflictError(f"channel {name}: points at {found}, not at {expected}; nothing was changed")
            self._record_swaps()
            swapped = Channel(name=name, digest=digest, previous=found, at=datetime.now(UTC), reason=reason)
            write_text(self.root / "channels" / f"{name}.json", swapped.model_dump_json(indent=2) + "\n")
            self._record_swaps()
        return swapped

    def history(self) -> list[Channel]:
        """Every swap so far, oldest first."""
        return [*self._recorded(), *self._unrecorded()]

    def _recorded(self) -> list[Channel]:
        path = self.root / HISTORY
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [Channel.model_validate(json.loads(line)) for line in lines]

    def _unrecorded(self) -> list[Channel]:
        """Swaps that happened but whose process was killed before it wrote them down."""
        recorded = {(swap.name, swap.at) for swap in self._recorded()}
        current = [self.channel(path.stem) for path in sorted((self.root / "channels").glob("*.json"))]
        return [channel for channel in current if channel and (channel.name, channel.at) not in recorded]

    def _record_swaps(self) -> None:
        """Append to the history what it lacks: the pointer is moved first, so it never tells of what did not happen."""
        lines = "".join(swap.model_dump_json() + "\n" for swap in self._unrecorded())
        if lines:
            with (self.root / HISTORY).open("a", encoding="utf-8") as history:
                history.write(lines)
                history.flush()
                os.fsync(history.fileno())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
