"""Prompt encoding: messages to token ids and back, by the chat template and the tokenizer.

Training, evaluation and serving all call this module and no other applies the template, so a served model
reads the same text that it was trained on. It needs neither torch nor transformers: jinja2 renders,
`tokenizers` encodes, and both are cheap enough for the contract check too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tasks.core.errors import GraftError
from tasks.core.records import Message, ToolCall
from tasks.prompt.template import PromptSource, Renderer, special_tokens
from tasks.prompt.tool_calls import CALL_ENDS, CALL_OPENS, ParsedAnswer

IGNORED = -100
"""The label of a position without loss, as in torch's cross entropy."""

_TOOL_CALL = re.compile(f"{CALL_OPENS}(.*?){CALL_ENDS}", re.DOTALL)


class Prompt(Renderer):
    """A prompt source bound to a base model's tokenizer.

    Raises:
        GraftError: the template does not render, or its end-of-turn token is not one of the
            tokenizer's special tokens, so that a model could never learn to stop.
    """

    def __init__(self, source: PromptSource, tokenizer: Tokenizer) -> None:
        super().__init__(source, special_tokens(tokenizer))
        self.tokenizer = tokenizer
        self.end_of_turn = self._find_end_of_turn()

    @classmethod
    def load(cls, prompts: Path, tokenizer: Path) -> Prompt:
        """Bind a prompt folder to the `tokenizer.json` in a model folder."""
        path = tokenizer / "tokenizer.json"
        if not path.is_file():
            raise GraftError(f"{path}: the tokenizer is missing; run the stage `base` first")
        return cls(PromptSource.read(prompts), Tokenizer.from_file(str(path)))

    def _find_end_of_turn(self) -> int:
        ids = self._ids(self.render([Message(role="user", content="a"), Message(role="assistant", content="b")]))
        ends = [i for i in ids if i in set(self._special.values())]
        if not ends or self.tokenizer.decode([ids[ids.index(ends[-1]) - 1]]).strip() == "":
            raise GraftError(
                "chat.jinja: an assistant turn does not end in one of the base tokenizer's special "
                f"tokens ({', '.join(sorted(self._special)[:8])}); use a template that fits the base"
            )
        return ends[-1]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """Token ids [length] of a prompt for the next assistant turn."""
        return self._ids(self.render(messages, tools, generate=True))

    def encode_text(self, text: str) -> list[int]:
        """Token ids [length] of a plain text, after the special tokens that the tokenizer puts before texts.

        The text is not changed: a special token in it is encoded as the characters of its spelling.

        Raises:
            GraftError: the text has no tokens.
        """
        ids = list(self._plain_tokenizer.encode(text).ids)
        if not ids:
            raise GraftError("the prompt is empty")
        return ids

    @cached_property
    def _plain_tokenizer(self) -> Tokenizer:
        """A copy of the tokenizer that encodes special tokens in a text as text."""
        plain = Tokenizer.from_str(self.tokenizer.to_str())
        plain.encode_special_tokens = True
        return plain

    def encode_training(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None
    ) -> tuple[list[int], list[int]]:
        """Token ids [length] of a whole conversation, and labels [length] for the turns after its last user turn.

        Each assistant turn is encoded separately from its context, because a served model starts to
        generate at this boundary. The assistant turns after the last user turn, each with its end-of-turn
        token, carry loss; all other positions do not. The turns before the last user turn are history,
        which lacks the tool calls that were made on the way.
        """
        ids: list[int] = []
        labels: list[int] = []
        encoded_text = ""
        last_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=0)
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.render(messages[:index], tools, generate=True)
            after = self.render(messages[: index + 1], tools).rstrip("\n")
            if not (before.startswith(encoded_text) and after.startswith(before)):
                raise GraftError("chat.jinja: a conversation's text must only grow from turn to turn")
            context, completion = self._ids(before[len(encoded_text) :]), self._ids(after[len(before) :])
            ids += context + completion
            labels += [IGNORED] * len(context)
            labels += completion if index > last_user else [IGNORED] * len(completion)
            encoded_text = after
        return ids, labels

    def decision_mask(self, labels: Sequence[int]) -> list[bool]:
        """For each of `labels` [length], whether it is a decision token: one that decides the kind of the turn.

        Decision tokens are the first token of every assistant turn, whether words or a call follow, and
        all tokens of a turn that opens with a tool call.
        """
        opening = self._ids(CALL_OPENS)
        mask = [False] * len(labels)
        for index, label in enumerate(labels):
            if label == IGNORED:
                continue
            if index == 0 or labels[index - 1] == IGNORED:
                opens_call = list(labels[index : index + len(opening)]) == opening
                mask[index] = True
            else:
                mask[index] = opens_call
        return mask

    def parse(self, text: str) -> ParsedAnswer:
        """Parse a generated turn into text and tool calls.

        A call must be JSON with a `name` and an `arguments` object; anything else makes the
        answer invalid, and its text is kept as content.
        """
        calls: list[ToolCall] = []
        for body in _TOOL_CALL.findall(text):
            try:
                calls.append(ToolCall.model_validate(json.loads(body)))
            except ValueError:
                return ParsedAnswer(text.strip(), (), valid=False)
        content = _TOOL_CALL.sub("", text).strip()
        broken = CALL_OPENS in content or CALL_ENDS in content
        return ParsedAnswer(content, tuple(calls), valid=not broken and bool(content or calls))

    @cached_property
    def identity(self) -> dict[str, str]:
        """The sha256 hashes that must agree between training and serving, by part.

        `tokenizer` and `template` cover one part each; `prompt` covers system text, tools and template.
        """
        texts = {"tokenizer": self.tokenizer.to_str(), "template": self.source.template}
        hashes = {part: hashlib.sha256(text.encode()).hexdigest() for part, text in texts.items()}
        return {**hashes, "prompt": self.source.digest}

    def require(self, expected: Mapping[str, str], where: Path) -> None:
        """Compare this prompt with the hashes that the package in folder `where` was trained with.

        Raises:
            GraftError: a hash differs.
        """
        for part, expected_hash in expected.items():
            actual_hash = self.identity.get(part)
            if actual_hash != expected_hash:
                raise GraftError(
                    f"{where}: its {part} has the hash {actual_hash}, but it was trained with {expected_hash}"
                )
