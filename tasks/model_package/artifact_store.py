"""Folders that are served: each with a file that lists the others' sha256, and copied once to a place of its own.

What is copied lies under a digest there, the sha256 of that file, and is never changed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol, Self, TypeVar

from tasks.core.errors import GraftError
from tasks.core.files import new_folder, sha256_file, sha256_tree


class ArtifactInfo(Protocol):
    """A record that says what lies in a folder."""

    @property
    def files(self) -> dict[str, str]:
        """The sha256 of each file but the record's own, by its path in the folder."""
        ...

    @classmethod
    def model_validate_json(cls, json_data: bytes, /) -> Self:
        """The record that was written as `json_data`."""
        ...


L = TypeVar("L", bound=ArtifactInfo)


def read(folder: Path, info: str, record: type[L], what: str, stage: str, beside: frozenset[str] = frozenset()) -> L:
    """What the file `info` in `folder` says, after all that it lists was checked byte for byte.

    Args:
        what: what `folder` holds, and `stage` which makes it, for errors.
        beside: files that are there and not listed.

    Raises:
        GraftError: a file is missing, or not what `info` says.
    """
    try:
        listing = record.model_validate_json((folder / info).read_bytes())
    except (OSError, ValueError) as error:
        raise GraftError(f"{folder}: no {what} there; run the stage `{stage}` first ({error})") from error
    if (found := sha256_tree(folder, beside | {info})) != listing.files:
        raise GraftError(
            f"{folder}: its files are not those that {info} lists: {sorted(found.items() ^ listing.files.items())}"
        )
    return listing


def publish(built: Path, info: str, root: Path) -> str:
    """Copy `built` below `root` under its digest, which is returned: the sha256 of its file `info`.

    That file lists the others, which the caller has checked. Publishing the same again changes nothing.
    """
    digest = sha256_file(built / info)
    if not (root / digest).exists():
        with new_folder(root / digest) as folder:
            shutil.copytree(built, folder, dirs_exist_ok=True)
    return digest
