"""What the last release run was made from, and whether data, prompts, articles or settings have changed since.

.graft/state/inputs.json       the inputs' hashes as the last release run found them at its start, or the first look
.graft/state/announced.json    hashes that were announced and that no run has begun on
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.core.files import sha256_file, sha256_tree, write_json
from tasks.core.paths import CONTRACT, KNOWLEDGE, PARAMS, PROMPTS, RAW, STATE

INPUTS = STATE / "state" / "inputs.json"
ANNOUNCED = STATE / "state" / "announced.json"
WATCHED = (RAW, PROMPTS, KNOWLEDGE, PARAMS, CONTRACT)
SETTLE_S = 5.0
"""A file written less than this ago may be half of what it will be."""

Hashes = dict[str, dict[str, str]]
"""sha256 of each file, by what is watched and by its name there; a watched file alone has none (`""`)."""


def watched_hashes() -> Hashes:
    """What the watched folders and files hold; an editor's hidden files do not count."""
    return {path.as_posix(): _hashes(path) for path in WATCHED}


def remember_run() -> Hashes:
    """Write down what a release run begins on; whatever was announced is hereby seen to."""
    inputs = watched_hashes()
    write_json(INPUTS, inputs)
    ANNOUNCED.unlink(missing_ok=True)
    return inputs


def settled(now: float) -> bool:
    """Whether no watched file was written in the last moments; `now` in seconds since the epoch."""
    return not any(0 <= now - path.stat().st_mtime < SETTLE_S for path in _watched_files())


def unannounced(current: Hashes) -> list[str]:
    """Paths of files that were added, changed or removed and that nobody was told of yet.

    What neither a run nor an earlier look has seen has nothing to be compared with: this first look
    at it is remembered instead.
    """
    baseline = _read(INPUTS)
    if unseen := {path: hashes for path, hashes in current.items() if path not in baseline}:
        baseline |= unseen
        write_json(INPUTS, baseline)
    if current == baseline:
        ANNOUNCED.unlink(missing_ok=True)
        return []
    known = baseline | _read(ANNOUNCED)
    return sorted(
        (Path(folder) / name).as_posix()
        for folder, hashes in current.items()
        for name in hashes.keys() | known[folder].keys()
        if hashes.get(name) != known[folder].get(name)
    )


def announced_at() -> float | None:
    """When somebody was told last of what no run has begun on, in seconds since the epoch; None if nothing is open."""
    return ANNOUNCED.stat().st_mtime if ANNOUNCED.is_file() else None


def forget_announced() -> None:
    """Nobody will see to what was announced: the next look announces it again."""
    ANNOUNCED.unlink(missing_ok=True)


def announced(current: Hashes) -> None:
    """Remember that somebody was told of this state of what is watched."""
    write_json(ANNOUNCED, current)


def _hashes(path: Path) -> dict[str, str]:
    if path.is_file():
        return {"": sha256_file(path)}
    return _visible(sha256_tree(path)) if path.is_dir() else {}


def _visible(hashes: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in hashes.items() if not any(p.startswith(".") for p in Path(name).parts)}


def _watched_files() -> Iterator[Path]:
    return (file for path in WATCHED for file in (path, *path.rglob("*")) if file.is_file())


def _read(path: Path) -> Hashes:
    content: Hashes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
