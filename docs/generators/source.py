"""Descriptions that stand in the source: docstrings of classes, and the strings below their fields."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]


class UndescribedError(Exception):
    """Something that the reference lists has no description in the source."""


@cache
def parsed(path: str) -> ast.Module:
    """The syntax tree of a file, named relative to the repository root."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def path_of(model: type) -> str:
    """The file that defines a class, relative to the repository root."""
    return model.__module__.replace(".", "/") + ".py"


def purpose(model: type) -> str:
    """A class's docstring without its list of attributes."""
    return re.split(r"\n\s*(?:Attributes|Args|Raises):\n", inspect.getdoc(model) or "")[0].strip()


def field_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The description of each field of a model, inherited ones included, in the fields' order.

    Raises:
        UndescribedError: a field has none.
    """
    found: dict[str, str] = {}
    for holder in reversed(model.__mro__):
        if holder.__module__.split(".")[0] in {"tasks", "deployments"}:
            found |= _described_in(holder)
    missing = [name for name in model.model_fields if not found.get(name)]
    if missing:
        raise UndescribedError(f"{path_of(model)}: {model.__name__}: no description of {', '.join(missing)}")
    return {name: found[name] for name in model.model_fields}


def _described_in(holder: type) -> dict[str, str]:
    """The descriptions in a class's own body: strings below fields, and the docstring's `Attributes:`."""
    body = next(
        node.body
        for node in ast.walk(parsed(path_of(holder)))
        if isinstance(node, ast.ClassDef) and node.name == holder.__name__
    )
    listed = re.search(r"\nAttributes:\n((?:[ \t]+.*\n?)+)", inspect.getdoc(holder) or "")
    found = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", listed[1], re.MULTILINE) if listed else [])
    return found | strings_below(body)


def strings_below(body: list[ast.stmt]) -> dict[str, str]:
    """The string that stands below each assignment to a name."""
    found = {}
    for node, below in pairwise(body):
        target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
        if isinstance(target, ast.Name) and isinstance(text, str):
            found[target.id] = inspect.cleandoc(text)
    return found
