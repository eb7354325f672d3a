"""Chat template: messages to the text that a model reads, with special tokens defused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from tasks.core.errors import GraftError
from tasks.core.records import Message

FILES = ("system.txt", "tools.json", "chat.jinja")


@dataclass(frozen=True)
class PromptSource:
    """The three files of a prompt folder."""

    system: str
    """The system text (`system.txt`)."""
    tools: tuple[dict[str, Any], ...]
    """The tool schemas in OpenAI's format (`tools.json`)."""
    template: str
    """The chat template in Jinja (`chat.jinja`)."""

    @classmethod
    def read(cls, folder: Path) -> PromptSource:
        """Read a prompt folder.

        Raises:
            GraftError: a file is missing, or `tools.json` is not a list of tool schemas.
        """
        try:
            files = {name: (folder / name).read_text(encoding="utf-8") for name in FILES}
        except (OSError, UnicodeDecodeError) as error:
            raise GraftError(f"{folder}: the prompt needs {', '.join(FILES)}: {error}") from error
        return cls.parse(files, str(folder))

    @classmethod
    def parse(cls, files: Mapping[str, str], where: str) -> PromptSource:
        """A prompt source from the texts of the three files, by name; `where` names their folder in the error message.

        Raises:
            GraftError: `tools.json` is not a list of tool schemas.
        """
        try:
            parsed = json.loads(files["tools.json"])
            for tool in parsed:
                tool["function"]["name"], tool["function"]["parameters"]["properties"]
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise GraftError(f"{where}/tools.json: expected a list of OpenAI tool schemas: {error!r}") from error
        return cls(files["system.txt"].strip(), tuple(parsed), files["chat.jinja"])

    @property
    def tool_names(self) -> frozenset[str]:
        return frozenset(tool["function"]["name"] for tool in self.tools)

    @property
    def digest(self) -> str:
        """The sha256 of system text, tools and template, in hexadecimal."""
        content = json.dumps([self.system, self.tools, self.template], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of a tokenizer's special tokens, by their text."""
    return {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}


class Renderer:
    """Renders conversations by a prompt source's template; `special` are the base's special tokens, which it defuses.

    Raises:
        GraftError: the template cannot be parsed.
    """

    def __init__(self, source: PromptSource, special: Mapping[str, int]) -> None:
        self.source = source
        self._special = special
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        try:
            self._template = environment.from_string(source.template)
        except TemplateError as error:
            raise GraftError(f"chat.jinja: {error}") from error

    def render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None, *, generate: bool = False
    ) -> str:
        """The conversation as text, with the prompt source's system text unless the messages contain one.

        A conversation that opens with its own system message does not show the prompt source's tools: pass
        `tools` to show its own. Special tokens inside a message, a tool call or a tool are
        defused, so that a customer cannot end a turn or open a new one.
        """
        shown = self.shown(messages, tools)
        if not _has_system(messages) and (self.source.system or self.source.tools):
            messages = [Message(role="system", content=self.source.system), *messages]
        try:
            return self._template.render(
                messages=[self._plain(m) for m in messages],
                tools=self._defuse_json(list(shown)),
                add_generation_prompt=generate,
            )
        except TemplateError as error:
            raise GraftError(f"chat.jinja: cannot render a conversation: {error}") from error

    def shown(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None
    ) -> Sequence[dict[str, Any]]:
        """The tools that `render` shows, which are the ones that the model may call."""
        if tools is not None:
            return tools
        return () if _has_system(messages) else self.source.tools

    def known_tool_names(self, tools: Sequence[dict[str, Any]] | None = None) -> frozenset[str]:
        """The names of the prompt source's own tools, and of `tools`, which a request brought."""
        return self.source.tool_names | {tool["function"]["name"] for tool in tools or ()}

    def _plain(self, message: Message) -> dict[str, Any]:
        calls = [self._defuse_json(call.model_dump()) for call in message.tool_calls]
        return {"role": message.role, "content": self._defuse(message.content.strip()), "tool_calls": calls}

    def _defuse(self, text: str) -> str:
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _defuse_json(self, value: Any) -> Any:
        return json.loads(self._defuse(json.dumps(value, ensure_ascii=False)))


def _has_system(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0].role == "system"
