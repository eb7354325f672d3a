"""Translation of schemas and regular expressions for XGrammar, which enforces constraints in OpenVINO.

XGrammar supports less than llguidance, which checks constraints first. Some patterns make XGrammar fail, and
its pipeline with it; and in a schema's string a pattern that matches a quotation mark would end the string.
github.com/mlc-ai/xgrammar, cpp/regex_converter.cc and cpp/json_schema_converter.cc, read as of GenAI 2026.4.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from tasks.engine import grammar
from tasks.engine.protocol import Constraint, ConstraintError, JsonSchema, Tags

_PART = re.compile(
    r"""
      (?P<bracket>\[\^?(?:\\.|[^\\\[\]])+\])
    | (?P<escape>\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[dDwWsSnrtfv]|[^a-zA-Z0-9]))
    | (?P<count>(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??(?![*+?{]))
    | (?P<group>\((?:\?:|(?!\?))|[)|])
    | (?P<character>\.|[^\\.^$*+?()\[\]{}|])
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENS, _ENDS = ("(", "(?:", "|"), (")", "|")
_SET_OPERATION = re.compile(r"&&|--|~~")
_ESCAPED_IN_JSON = '"\\' + "".join(map(chr, range(32)))
_NOT_ESCAPED = r"\"\\\x00-\x1f"
_WITHOUT_ESCAPED = {".": f"[^{_NOT_ESCAPED}]", r"\s": " "} | {
    rf"\{kind}": rf"[^\{kind.lower()}{_NOT_ESCAPED}]" for kind in "DWS"
}
_MAPS = ("properties", "$defs", "definitions")
_VALUES = ("enum", "const", "default", "examples")


@lru_cache(maxsize=64)
def check(constraint: Constraint) -> None:
    """Validate a constraint for an engine that uses XGrammar; valid constraints are cached.

    Raises:
        ConstraintError: see `grammar.check`, `pattern` and `schema`.
    """
    grammar.check(constraint)
    if isinstance(constraint, Tags):
        for tag in constraint.tags:
            schema(tag.schema)
    elif isinstance(constraint, JsonSchema):
        schema(constraint.text)
    else:
        pattern(constraint.pattern)


def pattern(text: str) -> str:
    """The regular expression of a whole text, checked for XGrammar.

    Raises:
        ConstraintError: it contains syntax that XGrammar does not support or interprets differently.
    """
    return "".join(part[0] for part in _parts(text, text))


def schema(text: str) -> str:
    """The JSON schema with patterns that are valid within JSON: they match no string that needs escapes.

    Raises:
        ConstraintError: it contains keywords that XGrammar ignores, or see `pattern`.
    """
    return json.dumps(_schema(json.loads(text)))


def _parts(text: str, whole: str) -> list[re.Match[str]]:
    parts: list[re.Match[str]] = []
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None or _is_empty(parts, part) or (part["bracket"] and _SET_OPERATION.search(part["bracket"])):
            raise ConstraintError(f"the regular expression cannot be held: {text[position:]!r} in {whole!r}")
        parts.append(part)
        position = part.end()
    if parts and parts[-1][0] in _OPENS:
        raise ConstraintError(f"the regular expression cannot be held: {text!r} ends in nothing")
    return parts


def _is_empty(parts: list[re.Match[str]], part: re.Match[str]) -> bool:
    """Whether `part` ends or repeats an empty expression, on which XGrammar fails."""
    return bool(part[0] in _ENDS or part["count"]) and (not parts or parts[-1][0] in _OPENS)


def _schema(value: Any) -> Any:
    if isinstance(value, list):
        return [_schema(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "multipleOf" in value or len(value.get("allOf", ())) > 1:
        raise ConstraintError("the JSON schema cannot be held: it has 'multipleOf', or 'allOf' of several schemas")
    return {key: _keyword(key, content) for key, content in value.items()}


def _keyword(key: str, content: Any) -> Any:
    if key in _VALUES:
        return content
    if key == "pattern":
        return _in_string(content)
    if key in _MAPS:
        return {name: _schema(part) for name, part in content.items()}
    if key == "patternProperties":
        return {_in_string(name): _schema(part) for name, part in content.items()}
    return _schema(content)


def _in_string(text: str) -> str:
    """A schema's pattern in one group, because XGrammar puts it between quotation marks unchanged."""
    inner = text.removeprefix("^")
    if inner.endswith("$") and not inner.endswith(r"\$"):
        inner = inner[:-1]
    return f"^(?:{''.join(_unescaped(part, text) for part in _parts(inner, text))})$"


def _unescaped(part: re.Match[str], whole: str) -> str:
    """The part without the characters that JSON escapes, which XGrammar would allow unescaped."""
    text = part[0]
    if part["count"] or part["group"]:
        return text
    if text.startswith("[^"):
        return f"[^{_NOT_ESCAPED}{text[2:]}"
    if text in _WITHOUT_ESCAPED:
        return _WITHOUT_ESCAPED[text]
    try:
        escaped = any(re.fullmatch(text, character) for character in _ESCAPED_IN_JSON)
    except re.error:  # an invalid range
        escaped = True
    if escaped:
        raise ConstraintError(f"the regular expression cannot be held: within JSON {text!r} in {whole!r}")
    return text
