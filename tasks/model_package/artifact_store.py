"""A content-addressed artifact store for served folders: indexes, retrieval models, classifiers.

An artifact is a folder with an info file that lists the sha256 of the other files. Publishing copies it once
under its digest, the sha256 of the info file; the copy is never changed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol, Self, TypeVar

from tasks.core.errors import GraftError
from tasks.core.files import keep_folder, sha256_file, sha256_tree


class ArtifactInfo(Protocol):
    """The info record of an artifact folder."""

    @property
    def files(self) -> dict[str, str]:
        """The sha256 of each file but the record's own, by its path in the folder."""
        ...

    @classmethod
    def model_validate_json(cls, json_data: bytes, /) -> Self:
        """Parse the record from JSON."""
        ...


L = TypeVar("L", bound=ArtifactInfo)


def read(
    folder: Path, info: str, record: type[L], contents: str, stage: str, unlisted: frozenset[str] = frozenset()
) -> L:
    """The info record of an artifact folder, after every listed file was checked byte for byte.

    Args:
        folder: the artifact's folder.
        info: name of the info file in it.
        record: the class of the info record.
        contents: the kind of artifact, for errors.
        stage: the stage that writes it, for errors.
        unlisted: names of further files that may be in the folder.

    Raises:
        GraftError: a file is missing, or differs from its sha256 in the info file.
    """
    try:
        listing = record.model_validate_json((folder / info).read_bytes())
    except (OSError, ValueError) as error:
        raise GraftError(f"{folder}: no {contents} there; run the stage `{stage}` first ({error})") from error
    if (actual := sha256_tree(folder, unlisted | {info})) != listing.files:
        raise GraftError(
            f"{folder}: its files are not those that {info} lists: {sorted(actual.items() ^ listing.files.items())}"
        )
    return listing


def publish(built: Path, info: str, root: Path) -> str:
    """Copy the artifact `built` to `root` under its digest, the sha256 of its file `info`, and return the digest.

    That file lists the others, which the caller has checked. Publishing the same artifact again changes nothing.
    """
    digest = sha256_file(built / info)
    keep_folder(root / digest, lambda folder: shutil.copytree(built, folder, dirs_exist_ok=True))
    return digest
