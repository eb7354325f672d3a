"""Folder store and the protocol of stores: the storage of a registry, here in a folder on this machine.

A key is a path with slashes. Small objects are written conditionally, so that of two concurrent writers one
fails and is informed; folders exist whole or not at all. The registry defines the meaning of the keys.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.core.files import keep_folder, locked, write_bytes

Check = Callable[[Path], object]
"""A function that checks a fetched folder, and raises if its content is not the expected one."""


@dataclass(frozen=True)
class StoredObject:
    """A small object that was read from a store."""

    content: bytes
    """The object's bytes."""
    version: str
    """The version of the object with these bytes."""


class Store(Protocol):
    """The storage of a registry. `tests/tasks/registry/test_registry.py` tests every implementation.

    Methods raise `GraftError` if the storage does not answer.
    """

    where: str
    """The store's location, for messages."""

    def read(self, key: str) -> StoredObject | None:
        """A small object, or None if there is none under the key."""
        ...

    def write(self, key: str, content: bytes, expected: str | None) -> bool:
        """Write a small object if its version is `expected` (None: if it does not exist); return whether it did."""
        ...

    def read_all(self, prefix: str) -> list[bytes]:
        """The small objects whose keys begin with `prefix` (of a folder with its slash), in the order of their keys."""
        ...

    def put_folder(self, key: str, source: Path, last: str) -> None:
        """Copy a folder into the store unless it exists there; it exists once its file `last` does."""
        ...

    def folder(self, key: str, last: str, check: Check) -> Path:
        """The path of a folder on this machine; the path does not exist if the store has no such folder.

        A copy that has to be fetched first must pass `check` before it is used.
        """
        ...

    def names(self, key: str, last: str) -> list[str]:
        """The names of the complete folders below `key`, sorted."""
        ...


class FolderStore:
    """A store in a folder: renames make writes atomic, and a lock puts writers in order."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.where = str(self.root)

    def read(self, key: str) -> StoredObject | None:
        path = self.root / key
        if not path.is_file():
            return None
        content = path.read_bytes()
        return StoredObject(content, hashlib.sha256(content).hexdigest())

    def write(self, key: str, content: bytes, expected: str | None) -> bool:
        with locked(self.root / "lock"):
            current = self.read(key)
            if (current.version if current else None) != expected:
                return False
            write_bytes(self.root / key, content)
            return True

    def read_all(self, prefix: str) -> list[bytes]:
        folder = self.root / prefix
        return [path.read_bytes() for path in sorted(folder.rglob("[!.]*")) if path.is_file()]

    def put_folder(self, key: str, source: Path, last: str) -> None:
        keep_folder(self.root / key, lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True))

    def folder(self, key: str, last: str, check: Check) -> Path:
        return self.root / key

    def names(self, key: str, last: str) -> list[str]:
        return sorted(path.parent.name for path in (self.root / key).glob(f"[!.]*/{last}"))
