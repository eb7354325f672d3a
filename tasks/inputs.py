"""What the last release run was made from, and whether data, prompts or articles have changed since.

.graft/state/inputs.json       the inputs' hashes as the last release run found them at its start, or the first look
.graft/state/announced.json    hashes that were announced and that no run has begun on
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.files import sha256_file, sha256_tree, write_json
from tasks.layout import CONTRACT, KNOWLEDGE, PARAMS, PROMPTS, RAW, STATE

INPUTS = STATE / "state" / "inputs.json"
ANNOUNCED = STATE / "state" / "announced.json"
WATCHED = (RAW, PROMPTS, KNOWLEDGE)
SETTLE_S = 5.0
"""A file written less than this ago may be half of what it will be."""

Hashes = dict[str, dict[str, str]]
"""sha256 of each file, by watched folder and by its name there."""


def watched_hashes() -> Hashes:
    """What the watched folders hold; an editor's hidden files do not count."""
    return {folder.as_posix(): _visible(sha256_tree(folder) if folder.is_dir() else {}) for folder in WATCHED}


def remember_run() -> dict[str, Any]:
    """Write down what a release run begins on; whatever was announced is hereby seen to."""
    files = {path.as_posix(): sha256_file(path) for path in (CONTRACT, PARAMS) if path.is_file()}
    inputs = {**watched_hashes(), **files}
    write_json(INPUTS, inputs)
    ANNOUNCED.unlink(missing_ok=True)
    return inputs


def settled(now: float) -> bool:
    """Whether no watched file was written in the last moments; `now` in seconds since the epoch."""
    return not any(0 <= now - path.stat().st_mtime < SETTLE_S for path in _watched_files())


def unannounced(found: Hashes) -> list[str]:
    """Paths of files that were added, changed or removed and that nobody was told of yet.

    A folder that neither a run nor an earlier look has seen has nothing to be compared with: this
    first look at it is remembered instead.
    """
    inputs = _read(INPUTS)
    start = _started_on(inputs)
    if unseen := {folder: hashes for folder, hashes in found.items() if folder not in start}:
        start |= unseen
        write_json(INPUTS, {**inputs, **start})
    if found == start:
        ANNOUNCED.unlink(missing_ok=True)
        return []
    known = start | _told(_read(ANNOUNCED)) if ANNOUNCED.is_file() else start
    return sorted(
        f"{folder}/{name}"
        for folder, hashes in found.items()
        for name in hashes.keys() | known[folder].keys()
        if hashes.get(name) != known[folder].get(name)
    )


def announced(found: Hashes) -> None:
    """Remember that somebody was told of this state of the watched folders."""
    write_json(ANNOUNCED, found)


def _visible(hashes: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in hashes.items() if not any(p.startswith(".") for p in Path(name).parts)}


def _watched_files() -> Iterator[Path]:
    return (path for folder in WATCHED for path in folder.rglob("*") if path.is_file())


def _started_on(inputs: Mapping[str, Any]) -> Hashes:
    """The folders in `inputs.json`. While data alone was watched they were named `raw` and `prompts`."""
    names = {folder.as_posix(): folder.as_posix() for folder in WATCHED}
    names |= {"raw": RAW.as_posix(), "prompts": PROMPTS.as_posix()}
    return {names[key]: _visible(hashes) for key, hashes in inputs.items() if key in names}


def _told(state: Mapping[str, Any]) -> Hashes:
    """The folders in `announced.json`. While data alone was watched it held the files of `data/raw` and no folder."""
    if any(isinstance(hashes, dict) for hashes in state.values()):
        return dict(state)
    return {RAW.as_posix(): dict(state)}


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
