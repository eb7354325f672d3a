"""Locations of the tests' registries: a folder, or a prefix of its own on a real S3 server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.files import sha256_tree
from tasks.registry.registry import LocalRegistry, Registry


@dataclass(frozen=True)
class RegistryLocation:
    """The location of a registry; it can be sent to another process and opened there."""

    root: Path
    """The folder of a local registry, or of the caches of one in S3."""
    url: str = ""
    """`s3://BUCKET/PREFIX`, or empty for a folder."""
    endpoint: str = ""
    """The S3 server's address."""

    def open(self, cache: str = "cache") -> Registry:
        """The registry; in S3 with the folder `cache` below `root` for fetched copies."""
        if not self.url:
            return LocalRegistry(self.root / "registry")
        from tasks.registry.s3_store import S3Store

        return Registry(S3Store(self.url, self.endpoint, self.root / cache))

    def objects(self) -> dict[str, str]:
        """A hash for each key in the registry; lock files are excluded."""
        if not self.url:
            hashes = sha256_tree(self.root / "registry")
            return {key: value for key, value in hashes.items() if not key.endswith("lock")}
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        client = self.open().store.client  # type: ignore[attr-defined]
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/")
        items = [item for page in pages for item in page.get("Contents", ())]
        return {item["Key"].removeprefix(prefix + "/"): f"{item['ETag']} {item['LastModified']}" for item in items}
