"""Change detection: whether data, prompts, articles or settings have changed since the last release run.

.graft/state/inputs.json       the inputs' hashes at the start of the last release run, or at the first check
.graft/state/announced.json    hashes of changes that were announced and with which no run has started yet
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.core.files import sha256_file, sha256_tree, write_json
from tasks.core.paths import CONTRACT, KNOWLEDGE, PARAMS, PROMPT_INJECTION_SOURCES, PROMPTS, RAW, STATE

INPUTS = STATE / "state" / "inputs.json"
ANNOUNCED = STATE / "state" / "announced.json"
WATCHED = (RAW, PROMPTS, KNOWLEDGE, PARAMS, CONTRACT, PROMPT_INJECTION_SOURCES)
SETTLE_S = 5.0
"""The time, in seconds, after which a written file counts as complete."""

Hashes = dict[str, dict[str, str]]
"""The sha256 of each file, by watched path and by name below it; the name of a watched file itself is empty (`""`)."""


def watched_hashes() -> Hashes:
    """The hashes of the watched folders and files, without hidden files such as an editor's."""
    return {path.as_posix(): _hashes(path) for path in WATCHED}


def remember_run() -> Hashes:
    """Record the inputs with which a release run starts; it covers all announced changes."""
    inputs = watched_hashes()
    write_json(INPUTS, inputs)
    ANNOUNCED.unlink(missing_ok=True)
    return inputs


def settled(now: float) -> bool:
    """Whether no watched file was written in the last `SETTLE_S` seconds; `now` is in seconds since the epoch."""
    return not any(0 <= now - path.stat().st_mtime < SETTLE_S for path in _watched_files())


def unannounced(current: Hashes) -> list[str]:
    """Paths of files that were added, changed or removed and that have not been announced yet.

    A watched path that neither a run nor an earlier check has recorded has no baseline to compare with, so
    this first check records it as the baseline.
    """
    baseline = _read(INPUTS)
    if unrecorded := {path: hashes for path, hashes in current.items() if path not in baseline}:
        baseline |= unrecorded
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
    """The time of the last announcement that no run has covered, in seconds since the epoch; None without one."""
    return ANNOUNCED.stat().st_mtime if ANNOUNCED.is_file() else None


def forget_announced() -> None:
    """Discard the announcement because no run will cover it: the next check announces the changes again."""
    ANNOUNCED.unlink(missing_ok=True)


def announced(current: Hashes) -> None:
    """Record that the changes up to these hashes were announced."""
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
