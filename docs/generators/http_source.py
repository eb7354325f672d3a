"""Headers and error codes of the HTTP API, as they stand in the source, which OpenAPI does not list."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from docs.generators.source import ROOT, parsed

FOLDERS = ("deployments/app", "deployments/replicas", "deployments/serve", "deployments/core")
ERROR_TYPES = {"ApiError", "Refusal"}


def trees() -> Iterator[ast.Module]:
    """The modules that answer requests."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield parsed(PurePosixPath(path.relative_to(ROOT)).as_posix())


def request_headers() -> set[str]:
    """The arguments of each `….headers.get("NAME")`."""
    return {
        node.args[0].value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("request.headers.get")
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def response_headers() -> set[str]:
    """The strings that begin `x-`, and the keys of dictionaries that name a header of HTTP itself."""
    texts = {
        node.value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    keys = {
        key.value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    return {text for text in texts if text.startswith("x-") and " " not in text} | (
        keys & {"cache-control", "retry-after", "www-authenticate", "location", "vary", "etag"}
    )


def errors() -> dict[str, set[int]]:
    """The statuses of each error code; none where the source computes the status."""
    found: dict[str, set[int]] = defaultdict(set)
    constants = _constants()
    for tree in trees():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for status, code in _raised(function, constants):
                    found[code] |= status
    return dict(found)


def _constants() -> dict[str, str]:
    """The module-level names of texts."""
    return {
        node.targets[0].id: node.value.value
        for tree in trees()
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _raised(
    function: ast.FunctionDef | ast.AsyncFunctionDef, constants: dict[str, str]
) -> Iterator[tuple[set[int], str]]:
    """Status and code of each error that a function makes; a code in a variable has all the texts assigned to it."""
    assigned = {
        node.targets[0].id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(function):
        is_error = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ERROR_TYPES
        if not isinstance(node, ast.Call) or not is_error or len(node.args) < 2:
            continue
        status, code = node.args[:2]
        known = {status.value} if isinstance(status, ast.Constant) and isinstance(status.value, int) else set()
        if isinstance(code, ast.Name) and code.id in constants:
            yield known, constants[code.id]
        elif isinstance(code, ast.Name) and code.id in assigned:
            yield from _choices(assigned[code.id], known)
        elif isinstance(code, ast.Constant):
            yield known, str(code.value)


def _choices(value: ast.expr, status: set[int]) -> Iterator[tuple[set[int], str]]:
    """The texts of `A if … else B`, or of `{STATUS: A, …}.get(…, B)`."""
    if isinstance(value, ast.IfExp):
        for branch in (value.body, value.orelse):
            yield from _choices(branch, status)
    elif (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Dict)
    ):
        table = value.func.value
        for key, text in zip(table.keys, table.values, strict=True):
            yield {ast.literal_eval(key)} if key else set(), ast.literal_eval(text)
        yield status, ast.literal_eval(value.args[1])
    else:
        yield status, ast.literal_eval(value)
