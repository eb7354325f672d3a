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

from deployments.app.guardrails.checks import Context, Finding, Safety
from deployments.app.guardrails.refusal import ANSWER, FINISH_REASON, refusal_text, ruled_out
from deployments.app.steps.citations import cite
from deployments.app.steps.input_checks import said
from deployments.app.steps.retrieval import Read, Reading
from deployments.core.messages import Ask, Delta, Event, Events, Finished
from tasks.prompt.tool_calls import Answer, showable
from tasks.retrieval import lookup_tool
from tasks.tools.policy import Decision, Deed, objection

_SENTENCE_END = re.compile(r"[.!?…][\"')\]]*\s|\n")


@dataclass(frozen=True)
class Facts:
    """What an answer may lean on: its customer, what tools told, the passages found, the customer's words."""

    customer: str | None
    deeds: tuple[Deed, ...]
    passages: tuple[str, ...] | None
    """None if nothing was searched."""
    said: tuple[str, ...]


Judge = Callable[[str, Facts], tuple[Decision, ...]]
"""What the rules say of an answer."""


@dataclass
class Outcome:
    """What came of the looks at one answer; it grows while a stream goes on."""

    findings: tuple[Finding, ...] = ()
    decisions: tuple[Decision, ...] = ()
    blocked_by: str = ""
    """The check or rule for which words stand in place of the answer, or of the rest of it."""


class Leaving:
    """Checks answers.

    Args:
        safety: the checks.
        judge: the rules for words; may block for some milliseconds.
        instructions: the system text and the tools that a package shows its model, by digest.
    """

    def __init__(self, safety: Safety, judge: Judge, instructions: Callable[[str], Sequence[str]]) -> None:
        self._safety = safety
        self._judge = judge
        self._instructions = instructions

    async def guard(self, events: Events, ask: Ask, reading: Reading, digest: str, outcome: Outcome) -> Events:
        """`events` of a turn by the package `digest`, as they may leave; they are closed at the end."""
        instructions = self._instructions(digest) if digest else ()
        look: _Look | None = None
        async with aclosing(events):
            async for event in events:
                look = look or _Look(self._safety, self._judge, ask, await reading.end(), instructions, outcome)
                yield look.at(event)


class _Look:
    """One answer on its way out."""

    def __init__(
        self, safety: Safety, judge: Judge, ask: Ask, read: Read, instructions: Sequence[str], outcome: Outcome
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

    def at(self, event: Event) -> Event:
        """What may leave of an event."""
        if isinstance(event, Delta):
            return self._delta(event)
        return self._finished(event) if isinstance(event, Finished) else event

    def _delta(self, delta: Delta) -> Delta:
        """The sentences that are whole by now. Scores name each token, so an answer with scores waits for its end."""
        self._text += delta.text
        text = self._text if self._ask.text is not None else showable(self._text)
        text += " " if self._text[-1:].isspace() else ""  # else a sentence would wait for the next one to begin
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        new = ""
        waits = self._ask.whole or self._ask.logprobs or bool(self._instead)
        if ends and ends[-1] > self._seen and not waits:
            self._seen = ends[-1]
            checked = self._check(text[: self._seen].rstrip(), delta.deeds)
            if checked.startswith(self._sent) and not self._instead:
                new, self._sent = checked[len(self._sent) :], checked
        return replace(delta, text=new, logprobs=())

    def _finished(self, finished: Finished) -> Finished:
        raw = self._ask.text is not None or self._ask.constraint is not None
        text = finished.generation.text if raw else finished.answer.content
        checked = text if self._instead else self._check(text, finished.deeds)
        if not self._instead and not checked.startswith(self._sent):
            self._refuse(ANSWER, "others_data")
        if self._instead:
            words = "\n".join(filter(None, [self._sent, self._instead]))
            reason = FINISH_REASON if self._refused else finished.generation.finish_reason
            generation = replace(finished.generation, text=words, finish_reason=reason)
            return replace(finished, generation=generation, answer=Answer(words, (), True), logprobs=())
        if checked != text:
            generation = replace(finished.generation, text=checked)
            answer = replace(finished.answer, content=checked)
            finished = replace(finished, generation=generation, answer=answer, logprobs=())
        given = self._read.given if any(step.tool == lookup_tool.NAME for step in finished.steps) else ()
        return replace(finished, citations=cite(checked, " ".join(said(self._ask.messages)[-1:]), given))

    def _check(self, text: str, deeds: tuple[Deed, ...]) -> str:
        """The text as the checks leave it; notes what they and the rules say, and refuses if one of them does."""
        ask = self._ask
        passages = tuple(chunk.embedded for chunk in self._read.known)
        facts = Facts(ask.customer, deeds, passages if self._read.searched else None, said(ask.messages))
        own = tuple(message.content for message in ask.messages if message.role == "system")
        results = (*(message.content for message in ask.messages if message.role == "tool"), *passages)
        context = Context(facts.said, (*results, *(deed.result for deed in deeds)), own or self._instructions)
        checked = self._safety.look("after", text, context)
        self._outcome.findings = merged(self._outcome.findings, checked.findings)
        if checked.blocked:
            self._refuse(refusal_text(checked), checked.findings[-1].check)
        elif self._is_the_shops:
            self._outcome.decisions = self._judge(checked.text, facts)
            if barred := objection(self._outcome.decisions):
                self._refuse(barred.instead or ruled_out(barred), barred.rule, told=bool(barred.instead))
        return checked.text

    @property
    def _is_the_shops(self) -> bool:
        """Whether the shop answers for what is said; a client with tools of its own does for what those did."""
        return self._ask.text is None and not self._ask.tools

    def _refuse(self, words: str, by: str, *, told: bool = False) -> None:
        """Say `words` instead; `told` if they are an answer and no refusal."""
        self._instead, self._refused, self._outcome.blocked_by = words, not told, by


def merged(before: Sequence[Finding], new: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings of one check as one: the times added, and the last outcome that is not a pass."""
    known = {finding.check: finding for finding in before}
    for finding in new:
        if earlier := known.get(finding.check):
            telling = finding if finding.outcome != "pass" else earlier
            finding = replace(telling, ms=earlier.ms + finding.ms)
        known[finding.check] = finding
    return tuple(known.values())
