"""What a killed DVC left half written, put right before the next DVC starts.

DVC writes two files in place: which commands are at work on which paths (`.dvc/tmp/rwlock`), and what
was made from what (`dvc.lock`). One that is killed while it writes leaves a cut file, and every DVC
after it refuses to do anything until a person steps in. So a readable `dvc.lock` is kept.
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
"""DVC holds it while it writes `AT_WORK`."""
REPOSITORY = LOCK_TABLE.with_name("lock")
"""DVC holds it while it writes `dvc.lock`, and not while a stage runs."""


def repair() -> None:
    """Make both files readable again; one that a living DVC is writing is waited for.

    Raises:
        GraftError: `dvc.lock` is cut, and no readable one was kept.
    """
    if LOCK_TABLE.is_file():
        with locked(GUARD):
            if not _is_json(LOCK_TABLE):
                LOCK_TABLE.unlink()  # those that it named are dead: whoever lives writes itself down whole
    if not LOCK_FILE.is_file() or is_readable(LOCK_FILE):
        return
    with locked(REPOSITORY):
        if is_readable(LOCK_FILE):
            return
        if not KEPT.is_file():
            raise GraftError(f"{LOCK_FILE}: it was cut off while DVC wrote it; `git checkout {LOCK_FILE}` gets it back")
        write_bytes(LOCK_FILE, KEPT.read_bytes())


def keep() -> None:
    """Remember `dvc.lock` as it is, if it can be read."""
    if LOCK_FILE.is_file() and is_readable(LOCK_FILE):
        write_bytes(KEPT, LOCK_FILE.read_bytes())


def is_readable(path: Path) -> bool:
    """Whether DVC takes a `dvc.lock`. What a cut one that it takes does not name any more is made again."""
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
