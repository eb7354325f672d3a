"""Grammar-constrained decoding: a mask of the tokens that may come next so that the text can still match.

llguidance computes the masks (a lexer of derivatives and an Earley parser, walked over a trie of the
vocabulary: github.com/guidance-ai/llguidance). It refuses the keywords of JSON Schema that it does
not know, where other libraries drop them, and it allows no special token as text.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from tasks.engine.protocol import Constraint, ConstraintError, JsonSchema, Regex, Tags

_KINDS = {JsonSchema: "JSON schema", Regex: "regular expression", Tags: "grammar of tags"}
# Spaces as `json.dumps` writes them: models are trained on such calls, and a degenerating model cannot emit endless
# spaces.
_AS_TRAINED = {"lenient": False, "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@lru_cache(maxsize=64)
def check(constraint: Constraint) -> None:
    """Validate a constraint for an engine that compiles grammars itself; valid constraints are cached.

    Raises:
        ConstraintError: the constraint is malformed, or no grammar can enforce it.
    """
    if error := LLMatcher.validate_grammar(grammar(constraint)):
        raise ConstraintError(_message(constraint, error))


class Grammars:
    """Compiles constraints for one tokenizer and caches the compiled ones."""

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
            raise ConstraintError(_message(constraint, error))
        return matcher


class Matcher:
    """The state of one text under a constraint, token by token."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> bytes:
        """The token mask: one byte for each token of the tokenizer's vocabulary, nonzero if it may come next.

        The end-of-turn token may come exactly when the text is a match.
        """
        return self._matcher.compute_logit_bias()

    def accept(self, token: int) -> None:
        """Advance by one allowed token."""
        self._matcher.consume_token(token)


def grammar(constraint: Constraint) -> str:
    """The constraint as a grammar in llguidance's format.

    Raises:
        ConstraintError: a schema is not JSON, or one of several cannot be enforced.
    """
    if isinstance(constraint, Tags):
        return LLMatcher.grammar_from_lark(lark(constraint))
    if isinstance(constraint, JsonSchema):
        # Without the override a schema itself could request that unknown keywords be dropped.
        return LLMatcher.grammar_from_json_schema(json.dumps(_schema(constraint)), overrides={"lenient": False})
    return LLMatcher.grammar_from_regex(constraint.pattern)


def _schema(constraint: JsonSchema) -> dict[str, Any]:
    """The parsed schema: llguidance would paste a schema's raw text into its own JSON."""
    try:
        schema = json.loads(constraint.text)
    except (ValueError, RecursionError) as error:
        raise ConstraintError(_message(constraint, str(error))) from None
    if not isinstance(schema, dict):
        raise ConstraintError(_message(constraint, "it is not an object"))
    return schema


def lark(constraint: Tags) -> str:
    """Tags in llguidance's dialect of Lark; `lazy` ends free text as soon as it contains the trigger.

    Raises:
        ConstraintError: a tag's schema is malformed, or no grammar can enforce it.
    """
    trigger, choices = constraint.trigger, []
    for tag in constraint.tags:
        arguments = JsonSchema(tag.schema)
        try:
            check(arguments)  # one by one, so that the error names the tag
        except ConstraintError as error:
            raise ConstraintError(f"after {tag.begin!r} {error}") from None
        rules = json.dumps({**_schema(arguments), "x-guidance": _AS_TRAINED})
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


def _message(constraint: Constraint, error: str) -> str:
    """The error in one line; for a regular expression llguidance prints the cause below an excerpt of the pattern."""
    lines = error.splitlines()
    cause = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return f"the {_KINDS[type(constraint)]} cannot be held: {cause}"
