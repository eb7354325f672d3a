"""Output guardrails: every answer passes the checks and the answer rules before a client receives it.

A stream is released sentence by sentence, each after a check of the whole answer so far. A blocked
answer is never sent: it is replaced by a statement that a rule knows to be true, or by fixed words
with which the turn ends as `content_filter`. The model's own answer is still read to its end, so that
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
"""The decisions of the answer rules on a text."""


@dataclass
class CheckLog:
    """The results of all checks of one turn; it grows while an answer is streamed."""

    findings: tuple[CheckFinding, ...] = ()
    """One finding for each check."""
    decisions: tuple[Decision, ...] = ()
    """Decisions of the answer rules."""
    blocked_by: str = ""
    """The check or rule because of which other text replaces the answer, or the rest of it."""


class OutputGuard:
    """Checks answers.

    Args:
        guardrails: the checks.
        answer_rules: the answer rules; may block for some milliseconds.
        instructions: the system prompt and tool descriptions of a package, by digest.
    """

    def __init__(
        self, guardrails: Guardrails, answer_rules: AnswerRules, instructions: Callable[[str], Sequence[str]]
    ) -> None:
        self._guardrails = guardrails
        self._answer_rules = answer_rules
        self._instructions = instructions

    async def guard(
        self, events: Events, request: TurnRequest, pending_passages: PendingPassages, digest: str, log: CheckLog
    ) -> Events:
        """The events of a turn as they may be sent.

        Args:
            events: of the turn; are closed at the end.
            request: the turn's request.
            pending_passages: its retrieval.
            digest: the package that answers; empty for the static message.
            log: receives the results of the checks.
        """
        instructions = self._instructions(digest) if digest else ()
        check: _AnswerCheck | None = None
        async with aclosing(events):
            async for event in events:
                if check is None:
                    passages = await pending_passages.wait()
                    check = _AnswerCheck(self._guardrails, self._answer_rules, request, passages, instructions, log)
                yield check.checked(event)


class _AnswerCheck:
    """The checks of one answer."""

    def __init__(
        self,
        guardrails: Guardrails,
        answer_rules: AnswerRules,
        request: TurnRequest,
        passages: FoundPassages,
        instructions: Sequence[str],
        log: CheckLog,
    ) -> None:
        self._guardrails = guardrails
        self._answer_rules = answer_rules
        self._request = request
        self._passages = passages
        self._instructions = instructions
        self._log = log
        self._text = self._sent = ""
        self._replacement, self._refused = "", False
        self._seen = 0

    def checked(self, event: Event) -> Event:
        """The event as it may be sent."""
        if isinstance(event, Delta):
            return self._delta(event)
        return self._end(event) if isinstance(event, TurnEnd) else event

    def _delta(self, delta: Delta) -> Delta:
        """The sentences that are complete by now.

        An answer with log-probabilities waits for its end, as these name each token.
        """
        self._text += delta.text
        text = self._text if self._request.text is not None else visible_text(self._text)
        text += " " if self._text[-1:].isspace() else ""  # else a sentence would wait for the next one to begin
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        new = ""
        waits = self._request.whole or self._request.sampling.logprobs or bool(self._replacement)
        if ends and ends[-1] > self._seen and not waits:
            self._seen = ends[-1]
            checked = self._check(text[: self._seen].rstrip(), delta.tool_results)
            if checked.startswith(self._sent) and not self._replacement:
                new, self._sent = checked[len(self._sent) :], checked
        return replace(delta, text=new, logprobs=())

    def _end(self, end: TurnEnd) -> TurnEnd:
        raw = self._request.text is not None or self._request.sampling.constraint is not None
        text = end.generation.text if raw else end.answer.content
        checked = text if self._replacement else self._check(text, end.tool_results)
        if not self._replacement and not checked.startswith(self._sent):
            self._replace(ANSWER, "others_data")
        if self._replacement:
            words = "\n".join(filter(None, [self._sent, self._replacement]))
            reason = FINISH_REASON if self._refused else end.generation.finish_reason
            generation = replace(end.generation, text=words, finish_reason=reason)
            return replace(end, generation=generation, answer=ParsedAnswer(words, (), True), logprobs=())
        if checked != text:
            generation = replace(end.generation, text=checked)
            answer = replace(end.answer, content=checked)
            end = replace(end, generation=generation, answer=answer, logprobs=())
        passages = self._passages.shown if any(step.tool == lookup_tool.NAME for step in end.steps) else ()
        question = " ".join(user_messages(self._request.messages)[-1:])
        return replace(end, citations=cite(checked, question, passages))

    def _check(self, text: str, tool_results: tuple[ToolResult, ...]) -> str:
        """The text after the checks; logs findings and decisions, and replaces the answer if one of them blocks it."""
        evidence = self._evidence(tool_results)
        checked = self._guardrails.check("after", text, self._context(evidence))
        self._log.findings = merge_findings(self._log.findings, checked.findings)
        if checked.blocked:
            self._replace(refusal_text(checked), checked.findings[-1].check)
        elif self._is_the_shops:
            self._log.decisions = self._answer_rules(checked.text, evidence)
            if refused := first_refusal(self._log.decisions):
                self._replace(refused.instead or ruled_out(refused), refused.rule, is_answer=bool(refused.instead))
        return checked.text

    def _evidence(self, tool_results: tuple[ToolResult, ...]) -> TurnEvidence:
        passages = tuple(passage.embedded for passage in self._passages.grounding)
        return TurnEvidence(
            self._request.customer,
            tool_results,
            passages if self._passages.searched else None,
            user_messages(self._request.messages),
        )

    def _context(self, evidence: TurnEvidence) -> CheckContext:
        """The texts from which the answer may copy, and those that it may not leak."""
        messages = self._request.messages
        results = (
            *(message.content for message in messages if message.role == "tool"),
            *(passage.embedded for passage in self._passages.grounding),
            *(tool_result.result for tool_result in evidence.tool_results),
        )
        system = tuple(message.content for message in messages if message.role == "system")
        return CheckContext(evidence.user_messages, results, system or self._instructions)

    @property
    def _is_the_shops(self) -> bool:
        """Whether the shop is responsible for the statements; a client with its own tools is for their results."""
        return self._request.text is None and not self._request.tools

    def _replace(self, words: str, blocked_by: str, *, is_answer: bool = False) -> None:
        """Answer with `words` instead; `is_answer` if they are an answer and no refusal."""
        self._replacement, self._refused, self._log.blocked_by = words, not is_answer, blocked_by


def merge_findings(before: Sequence[CheckFinding], new: Sequence[CheckFinding]) -> tuple[CheckFinding, ...]:
    """One finding for each check: its times added up, with the last outcome that is not a pass."""
    merged = {finding.check: finding for finding in before}
    for finding in new:
        if earlier := merged.get(finding.check):
            latest = finding if finding.outcome != "pass" else earlier
            finding = replace(latest, ms=earlier.ms + finding.ms)
        merged[finding.check] = finding
    return tuple(merged.values())
