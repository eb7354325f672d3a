"""DVC recovery: repair of the lock files that a killed DVC process left truncated, before the next one starts.

DVC writes two files in place: the table of running commands and their paths (`.dvc/tmp/rwlock`), and the
hashes of inputs and outputs (`dvc.lock`). A process that is killed while it writes leaves a truncated file, and
every DVC command after it fails until a person repairs the file. So a readable copy of `dvc.lock` is kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import Invalid

from tasks.core.errors import GraftError
from tasks.core.files import locked, write_bytes
from tasks.core.paths import RUN

LOCK_FILE = Path("dvc.lock")
KEPT = RUN / LOCK_FILE
LOCK_TABLE = Path(".dvc/tmp/rwlock")
GUARD = LOCK_TABLE.with_name("rwlock.lock")
"""The lock that DVC holds while it writes `LOCK_TABLE`."""
REPOSITORY = LOCK_TABLE.with_name("lock")
"""The lock that DVC holds while it writes `dvc.lock`, and not while a stage runs."""


def repair() -> None:
    """Make both files readable again; wait for a file that a running DVC process is writing.

    Raises:
        GraftError: `dvc.lock` is truncated, and there is no readable copy.
    """
    if LOCK_TABLE.is_file():
        with locked(GUARD):
            if not _is_json(LOCK_TABLE):
                LOCK_TABLE.unlink()  # its processes are dead: a running one would have written a complete entry
    if not LOCK_FILE.is_file() or is_readable(LOCK_FILE):
        return
    with locked(REPOSITORY):
        if is_readable(LOCK_FILE):
            return
        if not KEPT.is_file():
            raise GraftError(f"{LOCK_FILE}: truncated while DVC wrote it; restore it with `git checkout {LOCK_FILE}`")
        write_bytes(LOCK_FILE, KEPT.read_bytes())


def keep() -> None:
    """Keep a copy of `dvc.lock`, if it is readable."""
    if LOCK_FILE.is_file() and is_readable(LOCK_FILE):
        write_bytes(KEPT, LOCK_FILE.read_bytes())


def is_readable(path: Path) -> bool:
    """Whether DVC accepts a `dvc.lock`. Stages that are missing in a truncated one that it accepts run again."""
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, Invalid):
        return False
    return True


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
