"""The registry: published packages by digest, and channels that point at one of them.

packages/DIGEST/            the package, never changed after publishing
bases/SHA256/               the base models that packages stand on, once each
evaluations/DIGEST/         what `evaluate` measured of it
channels/NAME.json          the digest a channel points at now, and the swap that set it
history/NAME/TIME.json      each swap of a channel, written once
audit/DIGEST/               who did what with a package (tasks/registry/audit_log.py)

The same logic and the same keys wherever it lies: a folder (`tasks/registry/folder_store.py`) or S3
(`tasks/registry/s3_store.py`), as `deployments/registry.yaml` says.
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
_EARLIER = "history.jsonl"
"""Where swaps were written down before each had a file of its own; only read."""


class Act(Record):
    """Who moved a channel, how, and in which flow run if in one."""

    action: Literal["promote", "rollback"]
    who: str
    run: str | None = None


class Channel(Record):
    """A named pointer to a package, and the swap that set it; `act` is None where nobody said who did it."""

    name: str
    digest: str
    previous: str | None
    at: datetime
    reason: str
    act: Act | None = None


class ChannelConflictError(GraftError):
    """The channel was moved by someone else since it was read."""


class Registry:
    """Packages and channels, in any store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def publish(self, package: Path, base: Path, evaluation: Path) -> str:
        """Copy a checked package, its base and its evaluation in; return the digest.

        The package comes last: where it is, all that it stands on is too. Publishing the same
        package again changes nothing, or completes what was broken off.

        Raises:
            GraftError: a file is not what the manifest says, or the store does not answer.
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
            GraftError: no such package, or what had to be fetched is not what was published.
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
        """The folder of the base model that a published package stands on."""
        package = self.package(digest)
        sha256 = read_manifest(package).base.sha256
        return self.store.folder(f"bases/{sha256}", _BASE, lambda base: verify_package(package, base, digest))

    def evaluation(self, digest: str) -> Path:
        """The folder with a published package's evaluation; absent where there is none."""
        return self.store.folder(f"evaluations/{digest}", _SCORES, lambda _: None)

    def verify(self, digest: str) -> None:
        """Check a published package byte for byte before it is served."""
        verify_package(self.package(digest), self.base(digest), digest)

    def channel(self, name: str = PRODUCTION) -> Channel | None:
        """Where a channel points, or None before its first swap."""
        stored = self.store.read(_channel_key(name))
        return Channel.model_validate_json(stored.content) if stored else None

    def swap(self, name: str, digest: str, expected: str | None, reason: str, act: Act | None = None) -> Channel:
        """Point a channel at `digest`, provided it still points at `expected`.

        The swap before is written into the history first, then the channel is moved, which names
        this swap, then the history has this one too. So the history tells of nothing that did not
        happen, and whoever is killed in between leaves a swap that the next one writes down.

        Raises:
            ChannelConflictError: it points elsewhere by now; nothing was changed.
            GraftError: no such package.
        """
        if not self.has(digest):
            raise GraftError(f"{digest}: no such package in {self.store.where}")
        stored = self.store.read(_channel_key(name))
        current = Channel.model_validate_json(stored.content) if stored else None
        found = current.digest if current else None
        if found == expected:
            if current:
                self._record(current)
            swapped = Channel(name=name, digest=digest, previous=found, at=_after(current), reason=reason, act=act)
            if self._move(swapped, stored.version if stored else None):
                self._record(swapped)
                return swapped
            current = self.channel(name)
            found = current.digest if current else None
        raise ChannelConflictError(
            f"channel {name}: points at {found} by now, expected {expected}; nothing was changed. "
            "Someone else moved it: look at `graft releases` and try again"
        )

    def history(self) -> list[Channel]:
        """Every swap so far, oldest first."""
        # Channels before the history: who moves one meanwhile has first written down what is read here.
        current = [Channel.model_validate_json(content) for content in self.store.read_all("channels/")]
        earlier = self.store.read(_EARLIER)
        lines = earlier.content.splitlines() if earlier else []
        told = [*lines, *self.store.read_all("history/")]
        swaps = [*(Channel.model_validate_json(line) for line in told), *current]
        return sorted({(swap.name, swap.at): swap for swap in swaps}.values(), key=lambda swap: swap.at)

    def _move(self, swapped: Channel, version: str | None) -> bool:
        """Write the channel on its condition. A request that was sent twice is refused by its own first try."""
        content = _content(swapped)
        return self.store.write(_channel_key(swapped.name), content, version) or self.channel(swapped.name) == swapped

    def _record(self, swap: Channel) -> None:
        """Write a swap into the history, unless it is there."""
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
    """Now, and in any case later than the swap before, whose machine's clock may be ahead of this one's."""
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

    Nothing is asked of S3 yet; its client is imported only where the location is S3.

    Raises:
        GraftError: the settings are not as expected, or boto3 is not installed.
    """
    settings = load_registry_settings(root)
    if settings.location.startswith(S3):
        from tasks.registry.s3_store import S3Store

        return Registry(S3Store(settings.location, settings.endpoint, root / REGISTRY))
    return LocalRegistry(root / settings.location)
