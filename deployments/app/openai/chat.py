"""Chat completions API: a turn as OpenAI's message with tool calls, as one body or as a stream."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from deployments.app.openai.protocol import Api, Head, usage
from deployments.app.openai.requests import ChatRequest
from deployments.core.messages import Citation, Delta, TokenLogprob, TurnEnd
from tasks.core.records import ToolCall
from tasks.prompt.tool_calls import visible_text


class ChatWriter:
    """Writes the answer to one `ChatRequest`."""

    def __init__(self, request: ChatRequest, head: Head) -> None:
        self._request = request
        self._head = head
        self._text = self._sent = ""
        self._logprobs: list[TokenLogprob] = []
        self._sent_logprobs = 0

    def whole(self, end: TurnEnd) -> dict[str, Any]:
        """See `Writer`."""
        content, calls = choice_of(self._request, end)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message |= {"content": content or None, "tool_calls": [call_part(call) for call in calls]}
        if end.citations:
            message["annotations"] = cited_parts(end.citations)
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._scores(end.logprobs),
            "finish_reason": "tool_calls" if calls else end.generation.finish_reason,
        }
        return {**self._head.body("chatcmpl", "chat.completion"), "choices": [choice], "usage": usage(end)}

    def begin(self) -> Iterator[dict[str, Any]]:
        """See `Writer`. The role."""
        yield self._chunk({"role": "assistant", "content": ""})

    def add(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """See `Writer`. Content, once it cannot be the beginning of a tool call."""
        self._text += delta.text
        self._logprobs += delta.logprobs
        shown = visible_text(self._text)
        if len(shown) > len(self._sent):
            yield self._chunk({"content": shown[len(self._sent) :]})
            self._sent = shown

    def end(self, end: TurnEnd) -> Iterator[dict[str, Any]]:
        """See `Writer`. The rest of the content, tool calls, the finish reason, and usage if requested."""
        self._logprobs = list(end.logprobs)
        content, calls = choice_of(self._request, end)
        if len(content) > len(self._sent):
            yield self._chunk({"content": content[len(self._sent) :]})
        for index, call in enumerate(calls):
            yield self._chunk({"tool_calls": [{"index": index, **call_part(call)}]})
        cited = {"annotations": cited_parts(end.citations)} if end.citations else {}
        yield self._chunk(cited, "tool_calls" if calls else end.generation.finish_reason)
        if self._request.include_usage:
            yield {**self._chunk({}), "choices": [], "usage": usage(end)}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """A chunk of a stream, with the log-probabilities of the tokens since the last one."""
        unsent, self._sent_logprobs = self._logprobs[self._sent_logprobs :], len(self._logprobs)
        choice = {"index": 0, "delta": delta, "logprobs": self._scores(unsent), "finish_reason": finish_reason}
        body = {**self._head.body("chatcmpl", "chat.completion.chunk"), "choices": [choice]}
        return {**body, "usage": None} if self._request.include_usage else body

    def _scores(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._request.logprobs:
            return None
        content = [
            {"token": score.token, "logprob": score.logprob, "bytes": list(score.bytes), "top_logprobs": []}
            for score in logprobs
        ]
        return {"content": content, "refusal": None}


def choice_of(request: ChatRequest, end: TurnEnd) -> tuple[str, tuple[ToolCall, ...]]:
    """Content and tool calls of a turn, if the request allows calls; a constrained turn is all content."""
    if request.tool_choice == "none" or request.constraint:
        return end.generation.text.strip(), ()
    calls = end.answer.tool_calls
    return end.answer.content, calls[:1] if request.parallel_tool_calls is False else calls


def cited_parts(citations: Sequence[Citation]) -> list[dict[str, Any]]:
    """Citations in OpenAI's format; the URL is the passage's id, which begins with its document's file."""
    parts = [
        {"url": cited.chunk, "title": cited.title, "start_index": cited.start, "end_index": cited.end}
        for cited in citations
    ]
    return [{"type": "url_citation", "url_citation": part} for part in parts]


def call_part(call: ToolCall) -> dict[str, Any]:
    """A tool call in OpenAI's format, with a new id."""
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


CHAT = Api("chat", ChatRequest, ChatWriter)
