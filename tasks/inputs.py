"""What the last release run was made from, and whether `data/raw` has changed since.

.graft/state/inputs.json       the inputs' hashes as the last release run found them at its start
.graft/state/announced.json    hashes of `data/raw` that were announced and that no run has begun on
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.files import sha256_file, sha256_tree, write_json
from tasks.layout import CONTRACT, PARAMS, PROMPTS, RAW, STATE

INPUTS = STATE / "state" / "inputs.json"
ANNOUNCED = STATE / "state" / "announced.json"
SETTLE_S = 5.0
"""A file written less than this ago may be half of what it will be."""


def raw_hashes() -> dict[str, str]:
    """sha256 of every file in `data/raw`, by name; an editor's hidden files do not count."""
    found = sha256_tree(RAW) if RAW.is_dir() else {}
    return {name: digest for name, digest in found.items() if not any(p.startswith(".") for p in Path(name).parts)}


def remember_run() -> dict[str, Any]:
    """Write down what a release run begins on; whatever was announced is hereby seen to."""
    inputs = {
        "raw": raw_hashes(),
        "prompts": sha256_tree(PROMPTS),
        **{path.as_posix(): sha256_file(path) for path in (CONTRACT, PARAMS) if path.is_file()},
    }
    write_json(INPUTS, inputs)
    ANNOUNCED.unlink(missing_ok=True)
    return inputs


def settled(now: float) -> bool:
    """Whether nothing in `data/raw` was written in the last moments; `now` in seconds since the epoch."""
    return not any(0 <= now - path.stat().st_mtime < SETTLE_S for path in RAW.rglob("*") if path.is_file())


def unannounced(raw: Mapping[str, str]) -> list[str]:
    """Names in `data/raw` that were added, changed or removed and that nobody was told of yet.

    Before the first run there is nothing to compare with: the first look is remembered instead.
    """
    last_run = _read(INPUTS).get("raw")
    if raw == last_run:
        ANNOUNCED.unlink(missing_ok=True)
        return []
    known = _read(ANNOUNCED) if ANNOUNCED.is_file() else last_run
    if known is None:
        announced(raw)
        return []
    return sorted(name for name in known.keys() | raw.keys() if known.get(name) != raw.get(name))


def announced(raw: Mapping[str, str]) -> None:
    """Remember that somebody was told of this state of `data/raw`."""
    write_json(ANNOUNCED, dict(raw))


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
