"""XGrammar, the grammars of OpenVINO: patterns are rewritten so that they are valid within JSON, or refused."""

from __future__ import annotations

import json

import pytest

from tasks.engine.protocol import ConstraintError, JsonSchema, Regex, Tag, Tags
from tasks.engine.xgrammar import check, pattern, schema


def in_schema(text: str) -> str:
    """A schema's pattern after the rewriting."""
    rewritten: str = json.loads(schema(json.dumps({"pattern": text})))["pattern"]
    return rewritten


@pytest.mark.parametrize("text", ["[A-Z]{2}-[0-9]{2,6}", r"\d+ (am|pm)?", r".*\S[^x]", "a+?"])
def test_a_regular_expression_stays_as_it_is(text: str) -> None:
    assert pattern(text) == text


@pytest.mark.parametrize(
    "text",
    [
        r"\p{L}",
        "(?i)a",
        "(?P<n>a)",
        "(?<n>a)",
        "a++",
        "a**",
        "{2}",
        "(|a)",
        "a|",
        "()",
        "[[:alpha:]]",
        "[a-z&&[^b]]",
        "[]a]",
        r"\Aa",
        r"\x{41}",
        "a^",
        "$a",
        "]",
    ],
)
def test_what_breaks_the_pipeline_or_means_something_else_is_refused(text: str) -> None:
    for check_pattern in (pattern, in_schema):
        with pytest.raises(ConstraintError, match="the regular expression cannot be held: "):
            check_pattern(text)


def test_a_string_s_pattern_is_one_group_that_matches_nothing_which_json_escapes() -> None:
    assert in_schema("^HL-[0-9]{5}$") == "^(?:HL-[0-9]{5})$"
    assert in_schema("a|b") == "^(?:a|b)$"
    assert in_schema(r"\$") == r"^(?:\$)$"
    assert in_schema(".[^@]") == r"^(?:[^\"\\\x00-\x1f][^\"\\\x00-\x1f@])$"
    assert in_schema(r"\s\S") == r"^(?: [^\s\"\\\x00-\x1f])$"
    for text in ('"', r"\\", r"[\s\S]", "[ -~]", r"\n", r"[\w-a]"):
        with pytest.raises(ConstraintError, match="within JSON"):
            in_schema(text)


def test_only_schemas_are_rewritten() -> None:
    kept = {"properties": {"pattern": {"enum": [{"pattern": "."}]}, "enum": {"const": {"pattern": "."}}}}
    assert json.loads(schema(json.dumps(kept))) == kept
    deep = {"$defs": {"a": {"items": {"anyOf": [{"pattern": "a"}, {"patternProperties": {"b": {}}}]}}}}
    expected = {"$defs": {"a": {"items": {"anyOf": [{"pattern": "^(?:a)$"}, {"patternProperties": {"^(?:b)$": {}}}]}}}}
    assert json.loads(schema(json.dumps(deep))) == expected


def test_each_kind_of_constraint_is_looked_through() -> None:
    wrong = '{"multipleOf": 3}'
    for constraint in (Regex("a++"), JsonSchema(wrong), Tags("<", (Tag("<a", "{}", ">"), Tag("<b", wrong, ">")))):
        with pytest.raises(ConstraintError, match="cannot be held: "):
            check(constraint)
    check(Tags("<", (Tag("<a", "{}", ">"),)))


@pytest.mark.parametrize("text", ['{"items": {"multipleOf": 3}}', '{"allOf": [{}, {"type": "integer"}]}'])
def test_what_would_be_dropped_is_refused(text: str) -> None:
    with pytest.raises(ConstraintError, match="the JSON schema cannot be held: "):
        schema(text)
