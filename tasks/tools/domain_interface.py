"""The interface of a domain: the tools, rules and audits that the framework runs without knowing them.

A domain is a folder below `tasks/domains` whose module `domain.py` holds a `Domain` named `DOMAIN`.
Its own settings are the section `shop` of `params.yaml`. It keeps its state, such as a database, at
a path that the framework gives it; whether that becomes a file or a folder is the domain's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.core.records import Record, ToolCall
from tasks.core.settings import ShopSettings
from tasks.tools.policy import Decision, ToolResult


@dataclass(frozen=True)
class ToolAnswer:
    """The outcome of a tool call.

    Attributes:
        result: the tool's result, or a `Failure`.
        decisions: the decisions of the rules for calls.
        repeated: whether an earlier call with the same key had done it.
    """

    result: Record
    decisions: tuple[Decision, ...] = ()
    repeated: bool = False


@dataclass(frozen=True)
class TurnEvidence:
    """The facts of a turn that its answer may rely on.

    Attributes:
        customer: the customer's id; None if the client is not signed in.
        tool_results: the results of the tools that ran in this turn, never those that a client reports.
        passages: the passages found; None if nothing was searched.
        user_messages: the customer's messages.
    """

    customer: str | None
    tool_results: tuple[ToolResult, ...]
    passages: tuple[str, ...] | None
    user_messages: tuple[str, ...]


@dataclass(frozen=True)
class FinishedTurn:
    """A turn as its client saw it, and what it did.

    Attributes:
        text: the answer that was sent.
        calls: the tool calls, in the order of the evidence's `tool_results`.
        evidence: the facts that the answer may rely on.
        state: the path of the state that the turn left; None if it ran no tool.
    """

    text: str
    calls: tuple[ToolCall, ...]
    evidence: TurnEvidence
    state: Path | None


@dataclass(frozen=True)
class LeakLimits:
    """The limits of what an answer may disclose.

    Attributes:
        instructions: the texts that instruct the model.
        leaked_words: so many words in a row as in one of them are too many.
        hosts: the only hosts that an answer may link to.
    """

    instructions: Sequence[str]
    leaked_words: int
    hosts: Sequence[str]


class DomainToolService(Protocol):
    """A domain's tools under its rules, on one state."""

    def call(self, call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
        """Run a tool call on behalf of `customer` (None: not signed in); `key` makes it idempotent."""
        ...

    def check_answer(self, text: str, evidence: TurnEvidence) -> tuple[Decision, ...]:
        """The decisions of the rules for answers."""
        ...

    def copy(self, path: Path) -> DomainToolService:
        """The same tools and rules on a copy of the state at `path`, whose folder exists."""
        ...


OpenToolService = Callable[[ShopSettings, Path, Path], DomainToolService]
"""Opens the tool service on the state at the first path, made from the seed files in the second if there is none."""
TurnAudit = Callable[[FinishedTurn], tuple[str, ...]]
"""Audits a turn with none of the tools' and rules' code: a sentence for each violation."""
OpenAudit = Callable[[ShopSettings, Path, LeakLimits], TurnAudit]
"""Makes the audit of turns that each begin with a copy of the state at the path."""


@dataclass(frozen=True)
class Domain:
    """The functions that the framework needs of a domain.

    Attributes:
        open_tool_service: for serving and for evaluation; raises `GraftError` where seed or state do not fit.
        open_audit: for evaluation only, so it imports the audit's modules when it is called.
    """

    open_tool_service: OpenToolService
    open_audit: OpenAudit
