"""Folders that are served: copied once to a place of their own, under a digest, and never changed there."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.files import new_folder, sha256_file


def publish(built: Path, info: str, root: Path) -> str:
    """Copy `built` below `root` under its digest, which is returned: the sha256 of its file `info`.

    That file lists the others, which the caller has checked. Publishing the same again changes nothing.
    """
    digest = sha256_file(built / info)
    if not (root / digest).exists():
        with new_folder(root / digest) as folder:
            shutil.copytree(built, folder, dirs_exist_ok=True)
    return digest
