"""Types of fields in words, from their JSON schema: `integer, above 0`, `one of a, b`, `list of text`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from docs.generators.markdown import code

Schema = dict[str, Any]
_NAMES = {"string": "text", "boolean": "true or false", "null": "null", "object": "mapping"}
_BOUNDS: dict[str, Callable[[Any], str]] = {
    "minimum": lambda value: f"at least {_number(value)}",
    "exclusiveMinimum": lambda value: f"above {_number(value)}",
    "maximum": lambda value: f"at most {_number(value)}",
    "exclusiveMaximum": lambda value: f"below {_number(value)}",
    "minLength": lambda value: "not empty" if value == 1 else f"at least {value} characters",
    "maxLength": lambda value: f"at most {value} characters",
    "minItems": lambda value: "not empty" if value == 1 else f"at least {value} items",
    "maxItems": lambda value: f"at most {value} items" if value > 1 else "at most one item",
    "minProperties": lambda value: "not empty" if value == 1 else f"at least {value} keys",
    "pattern": lambda value: f"matches {code(value)}",
}


def type_text(schema: Schema) -> str:
    """The type of a value and its bounds; references are shown by the name of the record that they refer to."""
    kind, bounds = _kind(schema), _bounds(schema)
    return f"{kind}, {', '.join(bounds)}" if bounds else kind


def _inner(schema: Schema) -> str:
    """As `type_text`, for a part of another type."""
    kind, bounds = _kind(schema), _bounds(schema)
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


def reference(schema: Schema) -> str | None:
    """The name of the record that a schema refers to, or None."""
    return schema["$ref"].rpartition("/")[2] if "$ref" in schema else None


def alternatives(schema: Schema) -> list[Schema]:
    """The schemas that a value may fit."""
    return schema.get("anyOf") or schema.get("oneOf") or [schema]


def _kind(schema: Schema) -> str:
    if name := reference(schema):
        return name
    if "const" in schema:
        return f"only {code(json.dumps(schema['const']))}"
    if "enum" in schema:
        return "one of " + ", ".join(code(value) for value in schema["enum"])
    if len(options := alternatives(schema)) > 1:
        return " or ".join(dict.fromkeys(map(_inner, options)))
    if schema.get("type") == "array":
        return _items(schema)
    if schema.get("type") == "object":
        return _mapping(schema)
    if schema.get("format") in {"date", "date-time"}:
        return str(schema["format"])
    name = str(schema.get("type", "any value"))
    return _NAMES.get(name, name)


def _items(schema: Schema) -> str:
    if schema.get("maxItems") == 0:
        return "empty list"
    if "prefixItems" in schema:
        return "list of one " + ", ".join(map(_inner, schema["prefixItems"]))
    return f"list of {_inner(schema['items'])}" if schema.get("items") else "list"


def _mapping(schema: Schema) -> str:
    keys, values = schema.get("propertyNames"), schema.get("additionalProperties")
    if not isinstance(values, dict):
        return "mapping"
    return f"mapping of {_inner(keys) if keys else 'text'} to {_inner(values)}"


def _bounds(schema: Schema) -> list[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return [f"{_number(low)} to {_number(high)}"]
    if "prefixItems" in schema or "const" in schema or schema.get("maxItems") == 0:
        return []
    return [say(schema[name]) for name, say in _BOUNDS.items() if name in schema]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
