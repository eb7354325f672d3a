"""Tool loop: model calls and tool calls alternate until the model answers in words.

Each tool call runs under its rules, and the next model call reads the result; after a set number of
model calls the turn ends with fixed words. The loop emits the same events as a turn without tools, so
timeouts, fallback and streams do not depend on it. Clients never see a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from deployments.app.guardrails.checks import CheckedText, Guardrails
from deployments.app.steps.retrieval import FoundPassages, PendingPassages
from deployments.core.messages import Backend, Delta, Event, Events, ToolStep, TurnEnd, TurnRequest
from tasks.core.records import Message, Record, ToolCall
from tasks.core.settings import ToolSettings
from tasks.evaluation.response_features import UNKNOWN
from tasks.prompt.tool_calls import ParsedAnswer, visible_text
from tasks.retrieval import lookup_tool
from tasks.tools.policy import Decision, ToolResult
from tasks.tools.toolbox import UNKNOWN_TOOL, Failure, dump_result

WITHHELD = Failure(error="unreadable", message="What the tool told cannot be shown.")
"""Replaces a result that no check could clean."""


class ToolOutcome(Protocol):
    """The outcome of a call."""

    @property
    def result(self) -> Record:
        """The tool's result."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Decisions of the call rules."""


RunTool = Callable[[ToolCall, str | None, str], ToolOutcome]
"""Runs a call for a customer (None: unknown) under an idempotency key."""


class PackageBackend(Protocol):
    """Reaches served packages, with the passages that a turn may look up."""

    def stream(self, app: str, request: TurnRequest, pending_passages: PendingPassages) -> Events:
        """The events of one turn by the package of the application `app`. Closing the generator cancels the work.

        Args:
            app: the Serve application.
            request: the conversation.
            pending_passages: the retrieval for it.
        """
        ...


class ToolLoop:
    """A `PackageBackend` that runs the tools which a backend's models call.

    Args:
        backend: reaches models.
        run_tool: runs a call; may block.
        settings: the number of model calls in a turn, and the words after the last.
        guardrails: checks tool results before the model reads them.
    """

    def __init__(self, backend: Backend, run_tool: RunTool, settings: ToolSettings, guardrails: Guardrails) -> None:
        self._backend = backend
        self._run_tool = run_tool
        self._settings = settings
        self._guardrails = guardrails

    async def stream(self, app: str, request: TurnRequest, pending_passages: PendingPassages) -> Events:
        """See `PackageBackend.stream`."""
        if not request.may_use_tools:
            async with aclosing(self._backend.stream(app, request)) as events:
                async for event in events:
                    yield event
            return
        turn = _ToolTurn(request)
        for number in range(self._settings.max_tool_rounds):
            async with aclosing(self._backend.stream(app, turn.request)) as events:
                async for event in events:
                    if visible := turn.visible(event):
                        yield visible
            if not turn.calls:
                return
            for index, call in enumerate(turn.calls):
                if call.name == lookup_tool.NAME:
                    turn.add_passages(await pending_passages.wait())
                    continue
                key = f"{request.key}:{number}:{index}"
                turn.add_tool_result(call, *await asyncio.to_thread(self._run, call, request.customer, key))
        yield turn.unfinished(self._settings.unfinished_message)

    def _run(self, call: ToolCall, customer: str | None, key: str) -> tuple[ToolOutcome, CheckedText]:
        """The outcome of a call, and its result as the model may read it."""
        outcome = self._run_tool(call, customer, key)
        return outcome, self._guardrails.check("data", dump_result(outcome.result))


class _ToolTurn:
    """The conversation as it grows by tool calls and their results, with the totals of all model calls."""

    def __init__(self, request: TurnRequest) -> None:
        self.request = request
        self.calls: tuple[ToolCall, ...] = ()
        self._model_calls: list[TurnEnd] = []
        self._steps: list[ToolStep] = []
        self._tool_results: list[ToolResult] = []
        self._content: list[str] = []
        self._text, self._sent = "", 0

    def visible(self, event: Event) -> Event | None:
        """A model call's event as the client may see it; None for the end of one that calls tools."""
        if isinstance(event, Delta):
            return self._delta(event)
        if not isinstance(event, TurnEnd):
            return event
        self._model_calls.append(event)
        self.calls = event.answer.tool_calls
        if not self.calls:
            return self._end(event.answer)
        self.request = replace(self.request, messages=(*self.request.messages, event.answer.message()))
        self._content += filter(None, [visible_text(event.generation.text)])
        self._text, self._sent = "", 0
        return None

    def add_passages(self, passages: FoundPassages) -> None:
        """Add the passages, which the next model call reads; they were checked when their index was opened."""
        self._steps.append(ToolStep(tool=lookup_tool.NAME, outcome="ok" if passages.shown else "nothing_found"))
        message = lookup_tool.read_message(lookup_tool.with_context(self.request.messages, passages.shown))
        self.request = replace(self.request, messages=(*self.request.messages, message))

    def add_tool_result(self, call: ToolCall, outcome: ToolOutcome, checked: CheckedText) -> None:
        """Add a call's result, which the next model call reads."""
        code = outcome.result.error if isinstance(outcome.result, Failure) else "ok"
        found = tuple(f"{finding.check}: {finding.reason}" for finding in checked.findings if finding.outcome != "pass")
        name = UNKNOWN if code == UNKNOWN_TOOL else call.name  # a name that the model made up
        self._steps.append(ToolStep(tool=name, outcome=code, decisions=outcome.decisions, found=found))
        result = dump_result(WITHHELD) if checked.blocked else checked.text
        self._tool_results.append(ToolResult(call.name, result))
        self.request = replace(self.request, messages=(*self.request.messages, Message(role="tool", content=result)))

    def unfinished(self, words: str) -> TurnEnd:
        """The end of a turn whose model would go on calling tools."""
        return self._end(ParsedAnswer(words, (), True))

    def _delta(self, event: Delta) -> Delta:
        self._text += event.text
        text = visible_text(self._text)
        new, self._sent = text[self._sent :], len(text)
        # Content after a call begins on a new line.
        begins = new and len(new) == len(text) and self._content
        prompt, completion = event.prompt_tokens, event.completion_tokens
        for earlier in self._model_calls:
            prompt += earlier.generation.prompt_tokens
            completion += earlier.generation.completion_tokens
        return replace(
            event,
            text=f"\n{new}" if begins else new,
            prompt_tokens=prompt,
            completion_tokens=completion,
            tool_results=tuple(self._tool_results),
        )

    def _end(self, answer: ParsedAnswer) -> TurnEnd:
        """All model calls as one answer. Its features are those of the first call, as in evaluation."""
        calls, last = self._model_calls, self._model_calls[-1]
        generation = replace(
            last.generation,
            token_ids=tuple(token for call in calls for token in call.generation.token_ids),
            prompt_tokens=sum(call.generation.prompt_tokens for call in calls),
            first_token_ms=calls[0].generation.first_token_ms,
            latency_ms=sum(call.generation.latency_ms for call in calls),
        )
        return replace(
            last,
            generation=generation,
            answer=replace(answer, content="\n".join([*self._content, answer.content])),
            features=calls[0].features,
            first_round=calls[0] if self._steps else None,
            queue_ms=sum(call.queue_ms for call in calls),
            cached_tokens=sum(call.cached_tokens for call in calls),
            steps=tuple(self._steps),
            tool_results=tuple(self._tool_results),
        )
