"""Constrained decoding: which tokens may come next so that the text stays on its way to a match.

llguidance does the work (a lexer of derivatives and an Earley parser, walked over a trie of the
vocabulary: github.com/guidance-ai/llguidance). It refuses the keywords of JSON Schema that it does
not know where others drop them, and it lets no special token through as text.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from tasks.engine.protocol import Constraint, ConstraintError, JsonSchema, Regex, Tags

_KINDS = {JsonSchema: "JSON schema", Regex: "regular expression", Tags: "grammar of tags"}
# Spaces as `json.dumps` sets them: calls are trained so, and a model that lost its way cannot go on with spaces.
_AS_TRAINED = {"lenient": False, "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@lru_cache(maxsize=64)
def check(constraint: Constraint) -> None:
    """What an engine with grammars of its own asks first. What was held before is not looked at again.

    Raises:
        ConstraintError: the constraint is malformed, or says what no grammar can hold.
    """
    if error := LLMatcher.validate_grammar(grammar(constraint)):
        raise ConstraintError(_refusal(constraint, error))


class Grammars:
    """Compiles constraints for one tokenizer; one that comes again is not compiled again."""

    def __init__(self, tokenizer: Tokenizer, end_of_turn: int) -> None:
        self._tokenizer = LLTokenizer(tokenizer.to_str(), eos_token=end_of_turn)
        self._compiled = lru_cache(maxsize=64)(self._compile)

    def matcher(self, constraint: Constraint) -> Matcher:
        """A matcher at the beginning of a text.

        Raises:
            ConstraintError: see `check`.
        """
        return Matcher(self._compiled(constraint).deep_copy())

    def _compile(self, constraint: Constraint) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar(constraint), log_level=0)
        if error := matcher.get_error():
            raise ConstraintError(_refusal(constraint, error))
        return matcher


class Matcher:
    """Follows one text, token by token."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> bytes:
        """One byte for each token of the tokenizer's vocabulary, not zero if the token may come next.

        The end-of-turn token may come exactly when the text is a match.
        """
        return self._matcher.compute_logit_bias()

    def accept(self, token: int) -> None:
        """Go on by a token that was allowed."""
        self._matcher.consume_token(token)


def grammar(constraint: Constraint) -> str:
    """The constraint as llguidance reads it.

    Raises:
        ConstraintError: a schema is not JSON, or one of several cannot be held.
    """
    if isinstance(constraint, Tags):
        return LLMatcher.grammar_from_lark(lark(constraint))
    if isinstance(constraint, JsonSchema):
        # The schema itself could ask for unknown keywords to be dropped.
        return LLMatcher.grammar_from_json_schema(json.dumps(_schema(constraint)), overrides={"lenient": False})
    return LLMatcher.grammar_from_regex(constraint.pattern)


def _schema(constraint: JsonSchema) -> dict[str, Any]:
    """Parsed here, because llguidance pastes a schema's text into its own JSON as it is."""
    try:
        schema = json.loads(constraint.text)
    except (ValueError, RecursionError) as error:
        raise ConstraintError(_refusal(constraint, str(error))) from None
    if not isinstance(schema, dict):
        raise ConstraintError(_refusal(constraint, "it is not an object"))
    return schema


def lark(constraint: Tags) -> str:
    """Tags in llguidance's dialect of Lark; `lazy` ends free text as soon as the trigger stands in it.

    Raises:
        ConstraintError: a tag's schema is malformed, or says what no grammar can hold.
    """
    trigger, choices = constraint.trigger, []
    for tag in constraint.tags:
        held = JsonSchema(tag.schema)
        try:
            check(held)  # alone, so that the refusal says which
        except ConstraintError as error:
            raise ConstraintError(f"after {tag.begin!r} {error}") from None
        rules = json.dumps({**_schema(held), "x-guidance": _AS_TRAINED})
        choices.append(f"{_literal(tag.begin.removeprefix(trigger))} %json {rules} {_literal(tag.end)}")
    tags = f"tag: {' | '.join(choices)}"
    if constraint.required:
        return f"start: {_literal(trigger)} tag\n{tags}"
    free = rf"""
start: (opening tag)* TEXT
opening[lazy]: TEXT {_literal(trigger)}
TEXT: /(.|\n)*/
"""
    return free + tags


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""


def _refusal(constraint: Constraint, error: str) -> str:
    """In one line: of what llguidance says about a regular expression the cause stands after its picture."""
    lines = error.splitlines()
    cause = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return f"the {_KINDS[type(constraint)]} cannot be held: {cause}"
