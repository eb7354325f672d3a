"""Paths that the source names, and the modules that use each: read from the syntax, nothing is imported."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path, PurePosixPath

from docs.generators.source import ROOT, parsed
from tasks.core import paths

TOPS = ("tasks", "deployments", "flows")
HOLDER = "tasks/core/paths.py"


def modules() -> list[str]:
    """Every module of the project, but the one that holds the paths."""
    found = (PurePosixPath(path.relative_to(ROOT)).as_posix() for top in TOPS for path in (ROOT / top).rglob("*.py"))
    return sorted(set(found) - {HOLDER})


def constants() -> dict[str, str]:
    """The paths in `tasks/core/paths.py`, by their names."""
    return {name: path.as_posix() for name, path in vars(paths).items() if isinstance(path, Path)}


@cache
def users() -> dict[str, list[str]]:
    """The modules that import each path of `tasks/core/paths.py`, or that name a folder of the state themselves."""
    found: dict[str, set[str]] = defaultdict(set)
    names = constants()
    for module in modules():
        for node in ast.walk(parsed(module)):
            if isinstance(node, ast.ImportFrom) and node.module == "tasks.core.paths":
                for alias in node.names:
                    found[names[alias.name]].add(module)
            for path in _below_state(node):
                found[path].add(module)
    return {path: sorted(using) for path, using in found.items()}


def _below_state(node: ast.AST) -> list[str]:
    """The path that `STATE / "NAME"` makes, and those of `_FOLDERS` in `deployments/stack/environment.py`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
        if ast.unparse(node.left).endswith("STATE"):
            return [f"{paths.STATE.as_posix()}/{node.right.value!s}"]
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_FOLDERS":
        return [f"{paths.STATE.as_posix()}/{folder}" for folder in ast.literal_eval(node.value).values()]
    return []


def state_folders() -> dict[str, list[str]]:
    """The first parts of all paths below `.graft/`, each with the modules that use them."""
    found: dict[str, set[str]] = defaultdict(set)
    using = users()
    for path in {*constants().values(), *using}:
        parts = PurePosixPath(path).parts
        if len(parts) > 1 and parts[0] == paths.STATE.as_posix():
            found[parts[1]].update(using.get(path, []))
    return {name: sorted(modules) for name, modules in found.items()}
