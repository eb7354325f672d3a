"""A turn that uses tools: the model asks for some, they run under their rules, it reads what they gave.

A round is one such asking and what came of it; after so many the turn ends with fixed words. It
happens behind the same events as a turn without tools, so timeouts, fallback and streams know
nothing of it. Nobody is shown a call.
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
from tasks.prompt.tool_calls import ParsedAnswer, visible_text
from tasks.retrieval import lookup_tool
from tasks.tools.policy import Decision, ToolResult
from tasks.tools.toolbox import Failure, dump_result

WITHHELD = Failure(error="unreadable", message="What the tool told cannot be shown.")
"""Stands in for a result that no check could clean."""


class ToolOutcome(Protocol):
    """What came of a call, and what the rules said of it."""

    @property
    def result(self) -> Record: ...

    @property
    def decisions(self) -> tuple[Decision, ...]: ...


RunTool = Callable[[ToolCall, str | None, str], ToolOutcome]
"""Runs a call for a customer (None: somebody unknown) under a key."""


class PackageBackend(Protocol):
    """Reaches served packages, with all that a turn of theirs may need on its way."""

    def stream(self, app: str, ask: TurnRequest, reading: PendingPassages) -> Events:
        """The events of one turn by the package of the application `app`. Closing it ends the work for it.

        Args:
            app: the application.
            ask: the conversation.
            reading: what is being found for its customer's turn.
        """
        ...


class ToolLoop:
    """A `PackageBackend` that runs the tools which a backend's models ask for.

    Args:
        backend: reaches models.
        use: runs a call; may block.
        settings: how many rounds, and the words after the last.
        safety: looks at what tools tell before the model reads it.
    """

    def __init__(self, backend: Backend, use: RunTool, settings: ToolSettings, safety: Guardrails) -> None:
        self._backend = backend
        self._use = use
        self._settings = settings
        self._safety = safety

    async def stream(self, app: str, ask: TurnRequest, reading: PendingPassages) -> Events:
        """See `PackageBackend.stream`."""
        if not ask.may_use_tools:
            async with aclosing(self._backend.stream(app, ask)) as events:
                async for event in events:
                    yield event
            return
        turn = _ToolTurn(ask)
        for number in range(self._settings.max_tool_rounds):
            async with aclosing(self._backend.stream(app, turn.ask)) as events:
                async for event in events:
                    if told := turn.shown(event):
                        yield told
            if not turn.calls:
                return
            for place, call in enumerate(turn.calls):
                if call.name == lookup_tool.NAME:
                    turn.add_passages(await reading.wait())
                    continue
                key = f"{ask.key}:{number}:{place}"
                turn.add_tool_result(call, *await asyncio.to_thread(self._run, call, ask.customer, key))
        yield turn.unfinished(self._settings.unfinished_message)

    def _run(self, call: ToolCall, customer: str | None, key: str) -> tuple[ToolOutcome, CheckedText]:
        """What came of a call, and its result as the model may read it."""
        used = self._use(call, customer, key)
        return used, self._safety.check("data", dump_result(used.result))


class _ToolTurn:
    """The conversation as it grows by rounds, and what all of them took together."""

    def __init__(self, ask: TurnRequest) -> None:
        self.ask = ask
        self.calls: tuple[ToolCall, ...] = ()
        self._rounds: list[TurnEnd] = []
        self._steps: list[ToolStep] = []
        self._deeds: list[ToolResult] = []
        self._said: list[str] = []
        self._text, self._shown = "", 0

    def shown(self, event: Event) -> Event | None:
        """What the client's side is told of a round's event: nothing of the end of one that asks for tools."""
        if isinstance(event, Delta):
            return self._delta(event)
        if not isinstance(event, TurnEnd):
            return event
        self._rounds.append(event)
        self.calls = event.answer.tool_calls
        if not self.calls:
            return self._finished(event.answer)
        self.ask = replace(self.ask, messages=(*self.ask.messages, event.answer.message()))
        self._said += filter(None, [visible_text(event.generation.text)])
        self._text, self._shown = "", 0
        return None

    def add_passages(self, read: FoundPassages) -> None:
        """The next round reads what was found for the customer's turn; it was checked when its index was opened."""
        self._steps.append(ToolStep(tool=lookup_tool.NAME, outcome="ok" if read.shown else "nothing_found"))
        told = lookup_tool.read_message(lookup_tool.with_context(self.ask.messages, read.shown))
        self.ask = replace(self.ask, messages=(*self.ask.messages, told))

    def add_tool_result(self, call: ToolCall, used: ToolOutcome, checked: CheckedText) -> None:
        """What came of a call, which the next round reads."""
        outcome = used.result.error if isinstance(used.result, Failure) else "ok"
        found = tuple(f"{one.check}: {one.reason}" for one in checked.findings if one.outcome != "pass")
        self._steps.append(ToolStep(tool=call.name, outcome=outcome, decisions=used.decisions, found=found))
        result = dump_result(WITHHELD) if checked.blocked else checked.text
        self._deeds.append(ToolResult(call.name, result))
        self.ask = replace(self.ask, messages=(*self.ask.messages, Message(role="tool", content=result)))

    def unfinished(self, words: str) -> TurnEnd:
        """The end of a turn whose model would go on asking for tools."""
        return self._finished(ParsedAnswer(words, (), True))

    def _delta(self, event: Delta) -> Delta:
        self._text += event.text
        text = visible_text(self._text)
        new, self._shown = text[self._shown :], len(text)
        # Of an answer that goes on after a call the first piece begins a line.
        begins = new and len(new) == len(text) and self._said
        prompt, completion = event.prompt_tokens, event.completion_tokens
        for earlier in self._rounds:
            prompt += earlier.generation.prompt_tokens
            completion += earlier.generation.completion_tokens
        return replace(
            event,
            text=f"\n{new}" if begins else new,
            prompt_tokens=prompt,
            completion_tokens=completion,
            tool_results=tuple(self._deeds),
        )

    def _finished(self, answer: ParsedAnswer) -> TurnEnd:
        """All rounds as one answer. Its features are the first round's, which is the one that evaluation asks for."""
        rounds, last = self._rounds, self._rounds[-1]
        generation = replace(
            last.generation,
            token_ids=tuple(token for one in rounds for token in one.generation.token_ids),
            prompt_tokens=sum(one.generation.prompt_tokens for one in rounds),
            first_token_ms=rounds[0].generation.first_token_ms,
            latency_ms=sum(one.generation.latency_ms for one in rounds),
        )
        return replace(
            last,
            generation=generation,
            answer=replace(answer, content="\n".join([*self._said, answer.content])),
            features=rounds[0].features,
            first_round=rounds[0] if self._steps else None,
            queue_ms=sum(one.queue_ms for one in rounds),
            cached_tokens=sum(one.cached_tokens for one in rounds),
            steps=tuple(self._steps),
            tool_results=tuple(self._deeds),
        )
