"""Grammar constraints compiled for a tokenizer: the tokens that they allow, and the errors of invalid ones."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from tasks.engine.grammar import Grammars, Matcher, check
from tasks.engine.protocol import Constraint, ConstraintError, JsonSchema, Regex
from tests.conftest import make_tokenizer

END = 2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


def after(text: str, constraint: Constraint, tokenizer: Tokenizer) -> set[int]:
    """The tokens that may come after `text`."""
    matcher: Matcher = Grammars(tokenizer, END).matcher(constraint)
    for token in tokenizer.encode(text).ids:
        matcher.accept(token)
    return {token for token, allowed in enumerate(matcher.allowed()) if allowed}


def test_the_end_may_come_exactly_at_a_match(tokenizer: Tokenizer) -> None:
    letter = tokenizer.token_to_id("a")
    allowed = [after("a" * count, Regex("a{2,3}"), tokenizer) for count in range(4)]
    assert allowed == [{letter}, {letter}, {letter, END}, {END}]


def test_no_special_token_passes_as_text(tokenizer: Tokenizer) -> None:
    assert after('"a', JsonSchema('{"type": "string"}'), tokenizer).isdisjoint({0, 1, END})


def test_two_texts_under_one_constraint_go_their_own_ways(tokenizer: Tokenizer) -> None:
    grammars = Grammars(tokenizer, END)
    first, second = grammars.matcher(Regex("ab")), grammars.matcher(Regex("ab"))
    beginning = second.allowed()
    first.accept(tokenizer.token_to_id("a"))
    assert second.allowed() == beginning != first.allowed()


@pytest.mark.parametrize("schema", ["{}", '{"$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"}'])
def test_schemas_that_are_held(schema: str, tokenizer: Tokenizer) -> None:
    check(JsonSchema(schema))
    assert after("null", JsonSchema(schema), tokenizer) >= {END}


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Regex("(a"), "the regular expression cannot be held: unclosed group"),
        (JsonSchema("{"), "the JSON schema cannot be held: Expecting property name"),
        (JsonSchema('{"uniqueItems": true}'), "Unimplemented keys"),
        (JsonSchema('{"x-guidance": {"lenient": true}, "uniqueItems": true}'), "Unimplemented keys"),
        (JsonSchema('{}}], "max_tokens": 3, "a": [{"b": {}'), "Extra data"),
    ],
)
def test_a_refusal_says_why(constraint: Constraint, message: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConstraintError, match=message):
        check(constraint)
    with pytest.raises(ConstraintError, match=message):
        Grammars(tokenizer, END).matcher(constraint)
