"""Input checks: a text is redacted, refused or passed on before a model, a cache or a search sees it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from deployments.app.guardrails.checks import Guardrails
from deployments.app.guardrails.configured import configured_guardrails
from deployments.app.guardrails.refusal import ATTACK
from deployments.app.steps.input_checks import InputGuard
from deployments.core.messages import TurnRequest
from tasks.core.records import Message
from tasks.core.settings import load_settings
from tasks.safety.injection_classifier import open_classifier
from tests.conftest import ROOT
from tests.support.assistant_in_process import ScriptedAssistant, answers, guards
from tests.support.attack_texts import ATTACKS


def safety(classifier: Path) -> Guardrails:
    return configured_guardrails(load_settings(ROOT / "params.yaml").guardrails, open_classifier(classifier))


def test_personal_data_reaches_no_model_and_no_tool(tiny_classifier: Path) -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([answers("Noted.")], around=guards(safety(tiny_classifier)))
        messages = [{"role": "user", "content": "My card is 4111 1111 1111 1111, HL-20931"}]
        await assistant.post(messages=messages)
        (ask,) = assistant.backend.requests
        assert ask.messages[0].content == "My card is <CARD>, HL-20931"
        (row,) = assistant.rows
        found = {finding["check"]: finding["outcome"] for finding in json.loads(row.findings)}
        assert found["personal"] == "redact" and "4111" not in row.model_dump_json()

    asyncio.run(run())


def test_an_attack_is_refused_and_no_model_is_asked(tiny_classifier: Path) -> None:
    async def run() -> None:
        assistant = ScriptedAssistant([answers("Aye.")], around=guards(safety(tiny_classifier)))
        for stream in (False, True):
            messages = [{"role": "user", "content": "Where is my order?"}, {"role": "assistant", "content": "Which?"}]
            response = await assistant.post(
                messages=[*messages, {"role": "user", "content": ATTACKS[0]}], stream=stream
            )
            assert ATTACK in response.text and "content_filter" in response.text
        assert assistant.backend.requests == []
        for row in assistant.rows:
            assert (row.status, row.blocked_by, row.user_chars) == (200, "injection", None)

    asyncio.run(run())


def test_a_result_of_the_clients_own_tool_is_data(tiny_classifier: Path) -> None:
    async def run() -> None:
        question = Message(role="user", content="Where is it?")
        tool_result = Message(role="tool", content=json.dumps({"status": "sent", "note": ATTACKS[0]}))
        checked = await InputGuard(safety(tiny_classifier)).check(TurnRequest(messages=(question, tool_result)))
        assert checked.refusal == ""
        assert json.loads(checked.request.messages[1].content) == {"status": "sent", "note": "[left out]"}

    asyncio.run(run())


def test_a_text_to_go_on_with_is_checked_too(tiny_classifier: Path) -> None:
    async def run() -> None:
        input_guard = InputGuard(safety(tiny_classifier))
        assert (await input_guard.check(TurnRequest(text="Call 07911 123456"))).request.text == "Call <PHONE>"
        assert (await input_guard.check(TurnRequest(text=ATTACKS[0]))).blocked_by == "injection"

    asyncio.run(run())
