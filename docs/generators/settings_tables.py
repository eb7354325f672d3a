"""Tables of settings: each key of a YAML file with its type, its shipped value and its description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from docs.generators.markdown import code, prose, sections, table
from docs.generators.schema import Schema, type_text
from docs.generators.source import ROOT, field_descriptions, purpose
from tasks.core.settings import read_yaml

HEAD = ("key", "shipped value", "meaning", "type")


def shipped(path: Path) -> dict[str, Any]:
    """The content of a YAML file of this repository."""
    return read_yaml(ROOT / path)


def tables(model: type[BaseModel], values: dict[str, Any], level: int = 2, prefix: str = "") -> str:
    """A table of a section's own keys, then a heading with the same for each section in it."""
    schema = model.model_json_schema()["properties"]
    nested = {name: kind for name in model.model_fields if (kind := section(model, name))}
    described = field_descriptions(model)
    rows = [
        (code(name), _value(values[name]), described[name], type_text(_inline(model, schema[name])))
        for name in model.model_fields
        if name not in nested
    ]
    below = [
        sections(
            f"{'#' * min(level, 6)} {code(prefix + name)}",
            _purpose(kind) or described[name],
            tables(kind, values[name], level + 1, f"{prefix}{name}."),
        )
        for name, kind in nested.items()
    ]
    return sections(table(HEAD, rows), *below)


def section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a field that is a section of its own."""
    kind = model.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _purpose(model: type[BaseModel]) -> str:
    """The docstring without the words "Section `name`", which the heading has."""
    text = prose(purpose(model))
    if not text.startswith("Section"):
        return text
    _, colon, rest = text.partition(": ")
    return rest[:1].upper() + rest[1:] if colon else ""


def _inline(model: type[BaseModel], schema: Schema) -> Schema:
    """The schema of a field, with the definitions that it refers to put in their places."""
    definitions = model.model_json_schema().get("$defs", {})

    def put_in(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return put_in(definitions[part["$ref"].rpartition("/")[2]])
            return {key: put_in(value) for key, value in part.items()}
        return [put_in(one) for one in part] if isinstance(part, list) else part

    inlined: Schema = put_in(schema)
    return inlined


def _value(value: Any) -> str:
    """A value as it may be written in YAML; a long list as one code span per entry."""
    if isinstance(value, list) and len(json.dumps(value)) > 60:
        return ", ".join(code(_scalar(one)) for one in value)
    if isinstance(value, dict):
        return ", ".join(code(f"{key}: {_scalar(one)}") for key, one in value.items())
    return code(_scalar(value)) if value != [] else code("[]")


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
