"""Where a registry's bytes lie: what it asks of such a place, and the one that is a folder on this machine.

A key is a path with slashes. Small objects are written on a condition, so that of two writers one
loses and knows it; folders are there whole or not at all. What the keys mean is the registry's.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.core.files import locked, new_folder, write_bytes

Check = Callable[[Path], object]
"""Looks at a folder that was fetched, and raises where it is not what it should be."""


@dataclass(frozen=True)
class StoredObject:
    """A small object's bytes, and the version of it that they are."""

    content: bytes
    version: str


class Store(Protocol):
    """What a registry asks of the place where it lies. `tests/tasks/registry/test_registry.py` holds each one to it.

    Methods raise `GraftError` where the place does not answer.
    """

    where: str

    def read(self, key: str) -> StoredObject | None:
        """A small object, or None where there is none."""
        ...

    def write(self, key: str, content: bytes, expected: str | None) -> bool:
        """Write a small object if its version is `expected` (None: if there is none); says whether it did."""
        ...

    def read_all(self, prefix: str) -> list[bytes]:
        """The small objects whose keys begin with `prefix`, a folder's with its slash, in the order of their keys."""
        ...

    def put_folder(self, key: str, source: Path, last: str) -> None:
        """Copy a folder in, unless it is there; it is there once its file `last` is."""
        ...

    def folder(self, key: str, last: str, check: Check) -> Path:
        """Where a folder can be read on this machine; nothing is there if the store has none.

        A copy that has to be fetched first passes `check` before it counts.
        """
        ...

    def names(self, key: str, last: str) -> list[str]:
        """The names of the whole folders below `key`, sorted."""
        ...


class FolderStore:
    """A store in a folder: renames make it whole, and a lock makes one writer the first."""

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


def keep_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Make the folder `path` by `fill`, whole or not at all, unless it is there. Of two at once one makes it."""
    with locked(path.with_name(f".{path.name}.lock")):
        if not path.is_dir():
            with new_folder(path) as folder:
                fill(folder)
