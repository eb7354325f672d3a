"""Model registry: published packages by digest, and channels (MLflow's aliases) that point to one of them.

packages/DIGEST/            the package, never changed after publishing
bases/SHA256/               the base models of the packages, once each
evaluations/DIGEST/         the package's results of the stage `evaluate`
channels/NAME.json          the digest that a channel points to now, and the swap that set it
history/NAME/TIME.json      each swap of a channel, written once
audit/DIGEST/               the actions on a package with their authors (tasks/registry/audit_log.py)

Logic and keys are the same in every store: a folder (`tasks/registry/folder_store.py`) or S3
(`tasks/registry/s3_store.py`). `open_registry` chooses the store by `deployments/registry.yaml`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tasks.core.errors import GraftError
from tasks.core.paths import REGISTRY
from tasks.core.records import Record
from tasks.core.settings import Section, check, read_yaml
from tasks.model_package.manifest import MANIFEST, package_digest, read_manifest, verify_package
from tasks.registry.folder_store import FolderStore, Store

REGISTRY_YAML = Path("deployments/registry.yaml")
PRODUCTION = "production"
_BASE, _SCORES = "base.json", "scores.json"
_LEGACY_HISTORY = "history.jsonl"
"""The file of all swaps from before each had a file of its own; it is only read."""


class Act(Record):
    """The author and the kind of a channel's swap."""

    action: Literal["promote", "rollback"]
    """The kind of swap."""
    who: str
    """The author of the swap."""
    run: str | None = None
    """The flow run in which it happened, or None outside of one."""


class Channel(Record):
    """A channel: a named pointer to a package, and the swap that set it."""

    name: str
    """The channel's name, such as `production`."""
    digest: str
    """The package that it points to."""
    previous: str | None
    """The package that it pointed to before, or None at its first swap."""
    at: datetime
    """The time of the swap, with a time zone; later than that of the swap before."""
    reason: str
    """The author's reason."""
    act: Act | None = None
    """The author and the kind of the swap; None where no author was recorded."""


class ChannelConflictError(GraftError):
    """Another writer has moved the channel since it was read."""


class Registry:
    """The registry of packages and channels, in any store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def publish(self, package: Path, base: Path, evaluation: Path) -> str:
        """Copy a verified package, its base and its evaluation into the registry; return the digest.

        The package is copied last, so that a published package always has its base and evaluation. Publishing
        the same package again changes nothing, or completes an interrupted publication.

        Raises:
            GraftError: a file differs from the manifest, or the store does not answer.
        """
        manifest = verify_package(package, base)
        digest = package_digest(package)
        if not self.has(digest):
            self.store.put_folder(f"bases/{manifest.base.sha256}", base, _BASE)
            self.store.put_folder(f"evaluations/{digest}", evaluation, _SCORES)
            self.store.put_folder(f"packages/{digest}", package, MANIFEST)
        return digest

    def has(self, digest: str) -> bool:
        """Whether a package was published."""
        return self.store.read(f"packages/{digest}/{MANIFEST}") is not None

    def package(self, digest: str) -> Path:
        """The folder of a published package.

        Raises:
            GraftError: there is no such package, or the fetched copy is not what was published.
        """

        def check(package: Path) -> None:
            sha256 = read_manifest(package).base.sha256
            base = self.store.folder(f"bases/{sha256}", _BASE, lambda base: verify_package(package, base, digest))
            verify_package(package, base, digest)

        path = self.store.folder(f"packages/{digest}", MANIFEST, check)
        if not path.is_dir():
            raise GraftError(f"{digest}: no such package in {self.store.where}")
        return path

    def packages(self) -> list[str]:
        """The digests of all published packages."""
        return self.store.names("packages", MANIFEST)

    def base(self, digest: str) -> Path:
        """The folder of the base model of a published package."""
        package = self.package(digest)
        sha256 = read_manifest(package).base.sha256
        return self.store.folder(f"bases/{sha256}", _BASE, lambda base: verify_package(package, base, digest))

    def evaluation(self, digest: str) -> Path:
        """The folder with a published package's evaluation; the path does not exist if there is none."""
        return self.store.folder(f"evaluations/{digest}", _SCORES, lambda _: None)

    def verify(self, digest: str) -> None:
        """Verify the hashes of a published package's files before it is served."""
        verify_package(self.package(digest), self.base(digest), digest)

    def channel(self, name: str = PRODUCTION) -> Channel | None:
        """The present state of a channel, or None before its first swap."""
        stored = self.store.read(_channel_key(name))
        return Channel.model_validate_json(stored.content) if stored else None

    def swap(self, name: str, digest: str, expected: str | None, reason: str, act: Act | None = None) -> Channel:
        """Point a channel to `digest`, provided it still points to `expected` (compare-and-swap).

        The order of writes is: the previous swap into the history, then the channel with this swap, then this
        swap into the history. So the history contains no swap that did not happen, and if a writer is
        killed in between, the next writer records its swap (write-ahead recovery).

        Args:
            name: the channel's name.
            digest: the package to point to.
            expected: the package that the channel should point to now, or None before the first swap.
            reason: the author's reason.
            act: the author and the kind of the swap, or None if unknown.

        Raises:
            ChannelConflictError: the channel points to another package by now; nothing was changed.
            GraftError: there is no such package.
        """
        if not self.has(digest):
            raise GraftError(f"{digest}: no such package in {self.store.where}")
        stored = self.store.read(_channel_key(name))
        current = Channel.model_validate_json(stored.content) if stored else None
        current_digest = current.digest if current else None
        if current_digest == expected:
            if current:
                self._record(current)
            swapped = Channel(
                name=name, digest=digest, previous=current_digest, at=_after(current), reason=reason, act=act
            )
            if self._move(swapped, stored.version if stored else None):
                self._record(swapped)
                return swapped
            current = self.channel(name)
            current_digest = current.digest if current else None
        raise ChannelConflictError(
            f"channel {name}: points to {current_digest} by now, expected {expected}; nothing was changed. "
            "Another writer moved it: check `graft releases` and try again"
        )

    def history(self) -> list[Channel]:
        """All swaps of all channels, oldest first."""
        # The channels are read before the history, because a concurrent writer first records in the history the
        # swap that is read here.
        current = [Channel.model_validate_json(content) for content in self.store.read_all("channels/")]
        legacy = self.store.read(_LEGACY_HISTORY)
        lines = legacy.content.splitlines() if legacy else []
        history_lines = [*lines, *self.store.read_all("history/")]
        swaps = [*(Channel.model_validate_json(line) for line in history_lines), *current]
        return sorted({(swap.name, swap.at): swap for swap in swaps}.values(), key=lambda swap: swap.at)

    def _move(self, swapped: Channel, version: str | None) -> bool:
        """Write the channel if its version is still `version`; return whether it now holds this swap.

        A request that the client sent twice is refused because of its own first attempt, so the channel is read again.
        """
        content = _content(swapped)
        return self.store.write(_channel_key(swapped.name), content, version) or self.channel(swapped.name) == swapped

    def _record(self, swap: Channel) -> None:
        """Write a swap into the history, unless it is already there."""
        self.store.write(f"history/{swap.name}/{swap.at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.json", _content(swap), None)


class LocalRegistry(Registry):
    """A registry in a folder on this machine."""

    def __init__(self, root: Path = REGISTRY) -> None:
        super().__init__(FolderStore(root))


def _channel_key(name: str) -> str:
    return f"channels/{name}.json"


def _content(swap: Channel) -> bytes:
    return (swap.model_dump_json(indent=2) + "\n").encode()


def _after(current: Channel | None) -> datetime:
    """The present time, but later than the swap before, because the clock of its machine may be ahead of this one's."""
    now = datetime.now(UTC)
    return max(now, current.at + timedelta(microseconds=1)) if current else now


S3 = "s3://"


class RegistrySettings(Section):
    """The whole of `deployments/registry.yaml`."""

    location: Annotated[str, Field(min_length=1)]
    """A folder, relative to the repository root, or `s3://BUCKET/PREFIX`."""
    endpoint: str | None
    """The address of an S3 server other than AWS."""


def load_registry_settings(root: Path = Path()) -> RegistrySettings:
    """Read and check `deployments/registry.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    path = root / REGISTRY_YAML
    return check(RegistrySettings, read_yaml(path), str(path))


def open_registry(root: Path = Path()) -> Registry:
    """The configured registry of the repository at `root`.

    No request is sent to S3 yet; its client is imported only if the location is in S3.

    Raises:
        GraftError: the settings are invalid, or boto3 is not installed.
    """
    settings = load_registry_settings(root)
    if settings.location.startswith(S3):
        from tasks.registry.s3_store import S3Store

        return Registry(S3Store(settings.location, settings.endpoint, root / REGISTRY))
    return LocalRegistry(root / settings.location)
