"""The places where the tests' registries lie: a folder, or a prefix of its own on a real S3 server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.files import sha256_tree
from tasks.registry.registry import LocalRegistry, Registry


@dataclass(frozen=True)
class Place:
    """Where a registry lies; it can be sent to another process and opened there."""

    root: Path
    location: str = ""
    endpoint: str = ""

    def open(self, cache: str = "cache") -> Registry:
        """The registry; in S3 with the folder `cache` below `root` for what is fetched."""
        if not self.location:
            return LocalRegistry(self.root / "registry")
        from tasks.registry.s3_store import S3Store

        return Registry(S3Store(self.location, self.endpoint, self.root / cache))

    def objects(self) -> dict[str, str]:
        """What lies there: a hash for each key; locks are none of it."""
        if not self.location:
            found = sha256_tree(self.root / "registry")
            return {key: value for key, value in found.items() if not key.endswith("lock")}
        bucket, _, prefix = self.location.removeprefix("s3://").partition("/")
        client = self.open().store.client  # type: ignore[attr-defined]
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/")
        items = [item for page in pages for item in page.get("Contents", ())]
        return {item["Key"].removeprefix(prefix + "/"): f"{item['ETag']} {item['LastModified']}" for item in items}
