"""What leaves: every answer is checked, and held to the rules, before a client sees it.

A stream is let go sentence by sentence, each after a look at all that the answer says by then. What
is not allowed never leaves: in its place stand what a rule knows to be true, or fixed words with
which the turn ends as `content_filter`. The model's own answer is read to its end even so, so that
its tokens are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from deployments.app.guardrails.checks import CheckContext, CheckFinding, Guardrails
from deployments.app.guardrails.refusal import ANSWER, FINISH_REASON, refusal_text, ruled_out
from deployments.app.steps.citations import cite
from deployments.app.steps.input_checks import user_messages
from deployments.app.steps.retrieval import FoundPassages, PendingPassages
from deployments.core.messages import Delta, Event, Events, TurnEnd, TurnRequest
from tasks.prompt.tool_calls import ParsedAnswer, visible_text
from tasks.retrieval import lookup_tool
from tasks.tools.domain_interface import TurnEvidence
from tasks.tools.policy import Decision, ToolResult, first_refusal

_SENTENCE_END = re.compile(r"[.!?…][\"')\]]*\s|\n")


AnswerRules = Callable[[str, TurnEvidence], tuple[Decision, ...]]
"""What the rules say of an answer."""


@dataclass
class CheckLog:
    """What came of the looks at one answer; it grows while a stream goes on."""

    findings: tuple[CheckFinding, ...] = ()
    decisions: tuple[Decision, ...] = ()
    blocked_by: str = ""
    """The check or rule for which words stand in place of the answer, or of the rest of it."""


class OutputGuard:
    """Checks answers.

    Args:
        safety: the checks.
        judge: the rules for words; may block for some milliseconds.
        instructions: the system text and the tools that a package shows its model, by digest.
    """

    def __init__(self, safety: Guardrails, judge: AnswerRules, instructions: Callable[[str], Sequence[str]]) -> None:
        self._safety = safety
        self._judge = judge
        self._instructions = instructions

    async def guard(
        self, events: Events, ask: TurnRequest, reading: PendingPassages, digest: str, outcome: CheckLog
    ) -> Events:
        """`events` of a turn by the package `digest`, as they may leave; they are closed at the end."""
        instructions = self._instructions(digest) if digest else ()
        look: _AnswerCheck | None = None
        async with aclosing(events):
            async for event in events:
                look = look or _AnswerCheck(self._safety, self._judge, ask, await reading.wait(), instructions, outcome)
                yield look.checked(event)


class _AnswerCheck:
    """One answer on its way out."""

    def __init__(
        self,
        safety: Guardrails,
        judge: AnswerRules,
        ask: TurnRequest,
        read: FoundPassages,
        instructions: Sequence[str],
        outcome: CheckLog,
    ) -> None:
        self._safety = safety
        self._judge = judge
        self._ask = ask
        self._read = read
        self._instructions = instructions
        self._outcome = outcome
        self._text = self._sent = ""
        self._instead, self._refused = "", False
        self._seen = 0

    def checked(self, event: Event) -> Event:
        """What may leave of an event."""
        if isinstance(event, Delta):
            return self._delta(event)
        return self._finished(event) if isinstance(event, TurnEnd) else event

    def _delta(self, delta: Delta) -> Delta:
        """The sentences that are whole by now. Scores name each token, so an answer with scores waits for its end."""
        self._text += delta.text
        text = self._text if self._ask.text is not None else visible_text(self._text)
        text += " " if self._text[-1:].isspace() else ""  # else a sentence would wait for the next one to begin
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        new = ""
        waits = self._ask.whole or self._ask.logprobs or bool(self._instead)
        if ends and ends[-1] > self._seen and not waits:
            self._seen = ends[-1]
            checked = self._check(text[: self._seen].rstrip(), delta.tool_results)
            if checked.startswith(self._sent) and not self._instead:
                new, self._sent = checked[len(self._sent) :], checked
        return replace(delta, text=new, logprobs=())

    def _finished(self, finished: TurnEnd) -> TurnEnd:
        raw = self._ask.text is not None or self._ask.constraint is not None
        text = finished.generation.text if raw else finished.answer.content
        checked = text if self._instead else self._check(text, finished.tool_results)
        if not self._instead and not checked.startswith(self._sent):
            self._refuse(ANSWER, "others_data")
        if self._instead:
            words = "\n".join(filter(None, [self._sent, self._instead]))
            reason = FINISH_REASON if self._refused else finished.generation.finish_reason
            generation = replace(finished.generation, text=words, finish_reason=reason)
            return replace(finished, generation=generation, answer=ParsedAnswer(words, (), True), logprobs=())
        if checked != text:
            generation = replace(finished.generation, text=checked)
            answer = replace(finished.answer, content=checked)
            finished = replace(finished, generation=generation, answer=answer, logprobs=())
        given = self._read.shown if any(step.tool == lookup_tool.NAME for step in finished.steps) else ()
        return replace(finished, citations=cite(checked, " ".join(user_messages(self._ask.messages)[-1:]), given))

    def _check(self, text: str, deeds: tuple[ToolResult, ...]) -> str:
        """The text as the checks leave it; notes what they and the rules say, and refuses if one of them does."""
        ask = self._ask
        passages = tuple(chunk.embedded for chunk in self._read.grounding)
        facts = TurnEvidence(
            ask.customer, deeds, passages if self._read.searched else None, user_messages(ask.messages)
        )
        own = tuple(message.content for message in ask.messages if message.role == "system")
        results = (*(message.content for message in ask.messages if message.role == "tool"), *passages)
        context = CheckContext(
            facts.user_messages, (*results, *(deed.result for deed in deeds)), own or self._instructions
        )
        checked = self._safety.check("after", text, context)
        self._outcome.findings = merge_findings(self._outcome.findings, checked.findings)
        if checked.blocked:
            self._refuse(refusal_text(checked), checked.findings[-1].check)
        elif self._is_the_shops:
            self._outcome.decisions = self._judge(checked.text, facts)
            if barred := first_refusal(self._outcome.decisions):
                self._refuse(barred.instead or ruled_out(barred), barred.rule, told=bool(barred.instead))
        return checked.text

    @property
    def _is_the_shops(self) -> bool:
        """Whether the shop answers for what is said; a client with tools of its own does for what those did."""
        return self._ask.text is None and not self._ask.tools

    def _refuse(self, words: str, by: str, *, told: bool = False) -> None:
        """Say `words` instead; `told` if they are an answer and no refusal."""
        self._instead, self._refused, self._outcome.blocked_by = words, not told, by


def merge_findings(before: Sequence[CheckFinding], new: Sequence[CheckFinding]) -> tuple[CheckFinding, ...]:
    """Findings of one check as one: the times added, and the last outcome that is not a pass."""
    known = {finding.check: finding for finding in before}
    for finding in new:
        if earlier := known.get(finding.check):
            telling = finding if finding.outcome != "pass" else earlier
            finding = replace(telling, ms=earlier.ms + finding.ms)
        known[finding.check] = finding
    return tuple(known.values())
