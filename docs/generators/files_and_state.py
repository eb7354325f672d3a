"""The page of all files and folders that Graft reads and writes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import yaml

from docs.generators import state_facts
from docs.generators.markdown import code, sections, table
from docs.generators.path_users import constants, state_folders, users
from docs.generators.source import ROOT, UndescribedError
from tasks.core.paths import PARAMS

INTRODUCTION = """
# Files and state

Paths are relative to the repository root, which is the working directory of every process. `data/`, `params.yaml` and
`deployments/*.yaml` are written by people, `build/` by DVC's stages, `.graft/` by the running system; `build/` and
`.graft/` are ignored by git. [State on disk](../explanation/state.md) explains the split.
"""
BUILD = """
Each folder is the output of a stage, and DVC keeps a copy of every version in `.dvc/cache`. `build/` may be deleted:
the next run takes it from the cache, or runs the stages again where the cache has no copy. A stage that fails leaves
half-written outputs, so nothing is served from here.
"""
TOOLS = {
    "dvc.yaml": "Graph of the stages. Written by people.",
    "dvc.lock": "Hashes of inputs and outputs of the last run of each stage. DVC writes it; commit it with its data.",
    ".dvc/cache": "Every version of the outputs. May be deleted: the next run computes them again.",
    ".dvc/tmp": "Locks of DVC. May be deleted while no run is under way.",
    ".venv": "The Python environment. May be deleted: the next `make` installs it again.",
}


def page() -> str:
    """Inputs, outputs of the stages, and state."""
    return sections(
        INTRODUCTION,
        "## Inputs",
        _inputs(),
        "The settings files in `deployments/` are on [a page of their own](serve-yaml.md).",
        "## build/",
        BUILD,
        _built(),
        "## .graft/",
        _state(),
        "## Files of DVC and Python",
        table(("path", "content"), ((code(path), content) for path, content in TOOLS.items())),
    )


def _inputs() -> str:
    inputs = {path for path in constants().values() if not path.startswith(("build", ".graft"))}
    _complete("INPUTS", inputs, state_facts.INPUTS)
    rows = [(code(path), fact.content, _read_by(path)) for path, fact in state_facts.INPUTS.items()]
    return table(("path", "content", "read by"), rows)


def _built() -> str:
    writers = {out: name for name, stage in stages().items() for out in stage["outs"]}
    built = {path for path in constants().values() if path.startswith("build/")} | set(writers)
    _complete("BUILT", built, state_facts.BUILT)
    rows = [
        (code(path), content, f"stage {code(writers[path])}" if path in writers else "release flow", _read_by(path))
        for path, content in state_facts.BUILT.items()
    ]
    return table(("path", "content", "written by", "read by"), rows)


def _state() -> str:
    folders = state_folders()
    _complete("STATE", set(folders), state_facts.STATE)
    rows = [
        (code(name), fact.content, fact.written_by, fact.deletion, _codes(folders[name]))
        for name, fact in state_facts.STATE.items()
    ]
    return table(("in .graft/", "content", "written by", "may be deleted", "modules"), rows)


@cache
def stages() -> dict[str, Any]:
    """The stages of `dvc.yaml`."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return content


def _read_by(path: str) -> str:
    """The stages that depend on a path or on a part of it, and the modules outside the stages that use it."""
    names = [name for name, stage in stages().items() if _depends(stage, path)]
    own = {f"{top}/{name}.py" for name in stages() for top in ("tasks", "deployments")}
    others = [module for module in users().get(path, []) if module not in own]
    return "; ".join(filter(None, [_stages(names), _codes(others)]))


def _stages(names: list[str]) -> str:
    if len(names) == len(stages()):
        return "every stage"
    return f"stage{'s' if len(names) > 1 else ''} {_codes(names)}" if names else ""


def _depends(stage: dict[str, Any], path: str) -> bool:
    if path == PARAMS.as_posix():
        return bool(stage.get("params"))
    return any(_within(dep, path) for dep in stage["deps"])


def _within(dep: str, path: str) -> bool:
    return dep == path or dep.startswith(f"{path}/") or path.startswith(f"{dep}/")


def _codes(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))


def _complete(name: str, found: set[str], described: Iterable[str]) -> None:
    missing, idle = found - set(described), set(described) - found
    if missing or idle:
        raise UndescribedError(
            f"docs/generators/state_facts.py, {name}: without an entry: {sorted(missing)}; "
            f"entries of no path in the source: {sorted(idle)}"
        )
