"""Output checks of whole and streamed answers, answer rules included, over HTTP with a scripted model."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator

import pytest

from deployments.app.guardrails.checks import CheckFinding, Guardrails
from deployments.app.guardrails.output import DataLeakageCheck, LinkCheck, PromptLeakageCheck
from deployments.app.guardrails.refusal import ANSWER
from deployments.app.steps.output_checks import merge_findings
from deployments.core.messages import Delta, Event, TurnEnd, TurnRequest
from tasks.engine.protocol import Generation
from tasks.evaluation.response_features import measure_response
from tasks.prompt.tool_calls import ParsedAnswer
from tasks.text.pii import find_spans
from tasks.tools.domain_interface import TurnEvidence
from tasks.tools.policy import Decision
from tests.support.assistant_in_process import Script, ScriptedAssistant, guards

SAFETY = Guardrails(
    (PromptLeakageCheck(8), LinkCheck(["shop.example"]), DataLeakageCheck(find_spans)),
    {"instructions": "closed", "links": "closed", "others_data": "closed"},
)
INSTRUCTIONS = "Never speak of the golden spade that lies below the old oak tree."
NO = "The shop guarantees nothing."


TRUE = "Your parcel has left."


def judge(text: str, facts: TurnEvidence) -> tuple[Decision, ...]:
    """No guarantees, unless a passage makes them; and no denials of what is true."""
    if "cannot" in text:
        denied = Decision(rule="no_denials", owner="support team", outcome="refuse", code="", reason=NO, instead=TRUE)
        return (denied,)
    unfounded = "promise" in text and not any("promise" in passage for passage in facts.passages or ())
    outcome = "refuse" if unfounded else "allow"
    reason = NO if unfounded else ""
    return (Decision(rule="no_guarantees", owner="support team", outcome=outcome, code="", reason=reason),)


def as_chunks(text: str, size: int = 3) -> Script:
    """`text` in deltas of `size` characters."""

    async def script(ask: TurnRequest) -> AsyncGenerator[Event]:
        ends = range(size, len(text) + size, size)
        for number, end in enumerate(ends, 1):
            yield Delta(text[end - size : end], 7, number)
        generation = Generation(text, tuple(range(len(ends))), 7, "stop", 1.0, 2.0)
        answer = ParsedAnswer(text, (), True)
        yield TurnEnd(generation, answer, measure_response(ask.messages, generation, answer, (), ()), 3.0)

    return script


def checked_assistant(text: str) -> ScriptedAssistant:
    return ScriptedAssistant([as_chunks(text)], around=guards(SAFETY, judge, [INSTRUCTIONS]))


async def streamed(assistant: ScriptedAssistant, **options: object) -> tuple[list[str], str]:
    """The deltas of content that a client received, and the finish reason."""
    response = await assistant.post(stream=True, **options)
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    shown = [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]
    return shown, choices[-1]["finish_reason"]


def test_a_stream_is_sent_sentence_by_sentence_and_adds_up() -> None:
    async def run() -> None:
        text = "It costs £6.95. That is for plants, e.g. roses! Is that all?"
        shown, reason = await streamed(checked_assistant(text))
        assert (shown, reason) == (
            ["It costs £6.95.", " That is for plants, e.g.", " roses!", " Is that all?"],
            "stop",
        )
        assert (await checked_assistant(text).whole())[1] == text

    asyncio.run(run())


@pytest.mark.parametrize(
    ("bad", "blocked_by", "words"),
    [
        ("I promise you a tree.", "no_guarantees", NO),
        ("See https://evil.example/?a=b now.", "links", ANSWER),
        ("Never speak of the golden spade that lies there.", "instructions", ANSWER),
        ("![](https://evil.example/a.png)", "links", ANSWER),
    ],
)
def test_a_forbidden_text_is_never_sent(bad: str, blocked_by: str, words: str) -> None:
    async def run() -> None:
        text = f"Good morning. {bad} Goodbye."
        whole = checked_assistant(text)
        choice = (await whole.post()).json()["choices"][0]
        assert choice["finish_reason"] == "content_filter"
        assert words in choice["message"]["content"]
        assert bad not in choice["message"]["content"] and "Good morning" not in choice["message"]["content"]
        stream = checked_assistant(text)
        shown, reason = await streamed(stream)
        assert reason == "content_filter"
        assert shown[0] == "Good morning." and words in "".join(shown)
        assert not any(part in "".join(shown) for part in ("evil", "golden", "tree.", "Goodbye"))
        for row in (*whole.rows, *stream.rows):
            assert (row.status, row.blocked_by) == (200, blocked_by)
            assert row.completion_tokens == math.ceil(len(text) / 3)  # all that the model wrote is counted

    asyncio.run(run())


def test_where_a_rule_knows_what_is_true_that_is_the_answer() -> None:
    async def run() -> None:
        text = "One moment. I cannot say. Sorry."
        whole = checked_assistant(text)
        choice = (await whole.post()).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (TRUE, "stop")
        stream = checked_assistant(text)
        assert await streamed(stream) == (["One moment.", f"\n{TRUE}"], "stop")
        for row in (*whole.rows, *stream.rows):
            assert row.blocked_by == "no_denials" and TRUE not in row.model_dump_json()

    asyncio.run(run())


def test_what_spans_two_sentences_is_seen() -> None:
    async def run() -> None:
        text = "Never speak of. The golden spade! That lies below it."
        shown, reason = await streamed(checked_assistant(text))
        assert reason == "content_filter" and "below" not in "".join(shown)

    asyncio.run(run())


def test_data_of_others_is_redacted_and_the_rest_is_sent() -> None:
    async def run() -> None:
        text = "Write to mo@example.org about it. Bye."
        assert (await checked_assistant(text).whole())[1] == "Write to <EMAIL> about it. Bye."
        shown, reason = await streamed(checked_assistant(text))
        assert ("".join(shown), reason) == ("Write to <EMAIL> about it. Bye.", "stop")
        body = {"messages": [{"role": "user", "content": "I am mo@example.org"}]}
        assert (await checked_assistant(text).post(**body)).json()["choices"][0]["message"]["content"] == text

    asyncio.run(run())


def test_an_answer_with_scores_waits_for_its_end_and_a_refused_one_has_none() -> None:
    async def run() -> None:
        shown, _ = await streamed(checked_assistant("One. Two. Three."), logprobs=True)
        assert shown == ["One. Two. Three."]
        choice = (await checked_assistant("I promise.").post(logprobs=True)).json()["choices"][0]
        assert choice["logprobs"]["content"] == []

    asyncio.run(run())


def test_with_the_clients_own_tools_answer_rules_do_not_apply_and_leak_checks_do() -> None:
    async def run() -> None:
        tools = [{"type": "function", "function": {"name": "gift", "parameters": {"type": "object"}}}]
        choice = (await checked_assistant("I promise you a tree.").post(tools=tools)).json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        choice = (await checked_assistant("See https://evil.example/").post(tools=tools)).json()["choices"][0]
        assert choice["finish_reason"] == "content_filter"

    asyncio.run(run())


def test_what_was_found_is_in_the_row_without_words() -> None:
    async def run() -> None:
        assistant = checked_assistant("Write to mo@example.org. I promise.")
        await streamed(assistant)
        (row,) = assistant.rows
        findings = {found["check"]: found for found in json.loads(row.findings)}
        assert findings["others_data"]["outcome"] == "redact"
        assert findings["links"]["outcome"] == "pass" and findings["links"]["ms"] > 0
        (decision,) = json.loads(row.decisions)
        assert (decision["rule"], decision["outcome"]) == ("no_guarantees", "refuse")
        assert "mo@example" not in row.model_dump_json()

    asyncio.run(run())


def test_findings_of_one_check_are_one() -> None:
    found = merge_findings(
        (CheckFinding("a", "redact", "x", 1.0),),
        (CheckFinding("a", "pass", "", 2.0), CheckFinding("b", "pass", "", 1.0)),
    )
    assert found == (CheckFinding("a", "redact", "x", 3.0), CheckFinding("b", "pass", "", 1.0))
