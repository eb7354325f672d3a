"""Constrained decoding: which tokens may come next so that the text stays on its way to a match.

llguidance does the work (a lexer of derivatives and an Earley parser, walked over a trie of the
vocabulary: github.com/guidance-ai/llguidance). It refuses the keywords of JSON Schema that it does
not know where others drop them, and it lets no special token through as text.
"""

from __future__ import annotations

import json
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from tasks.engine.protocol import Constraint, ConstraintError, JsonSchema


def check(constraint: Constraint) -> None:
    """What an engine with grammars of its own asks first.

    Raises:
        ConstraintError: the constraint is malformed, or says what no grammar can hold.
    """
    if error := LLMatcher.validate_grammar(_grammar(constraint)):
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
        matcher = LLMatcher(self._tokenizer, _grammar(constraint), log_level=0)
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


def _grammar(constraint: Constraint) -> str:
    if not isinstance(constraint, JsonSchema):
        return LLMatcher.grammar_from_regex(constraint.pattern)
    try:
        # Parsed here, because llguidance pastes a schema's text into its own JSON as it is.
        schema = json.loads(constraint.text)
    except (ValueError, RecursionError) as error:
        raise ConstraintError(_refusal(constraint, str(error))) from None
    # The schema itself could ask for unknown keywords to be dropped.
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"lenient": False})


def _refusal(constraint: Constraint, error: str) -> str:
    """In one line: of what llguidance says about a regular expression the cause stands after its picture."""
    lines = error.splitlines()
    cause = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    kind = "JSON schema" if isinstance(constraint, JsonSchema) else "regular expression"
    return f"the {kind} cannot be held: {cause}"
