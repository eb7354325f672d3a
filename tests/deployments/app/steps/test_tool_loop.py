"""The tool loop, over HTTP in one process: turns that use the shop's tools; model and tools answer by scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from deployments.core.messages import Delta, Event, TurnEnd, TurnRequest
from tasks.core.paths import PARAMS, SHOP_SEED
from tasks.core.records import Record, ToolCall
from tasks.core.settings import load_settings
from tasks.domains.nursery.tool_service import open_tool_service
from tasks.engine.protocol import Generation
from tasks.evaluation.response_features import measure_response
from tasks.prompt.tool_calls import ParsedAnswer
from tasks.tools.domain_interface import ToolAnswer
from tasks.tools.policy import Decision
from tasks.tools.toolbox import Failure
from tests.conftest import ROOT
from tests.support.assistant_in_process import NO_CACHE, Script, ScriptedAssistant, answers, refuses

UNFINISHED = "I could not finish that."
NO = Decision(rule="order_of_customer", owner="account team", outcome="refuse", code="not_yours", reason="Not yours.")


class Parcel(Record):
    status: str


def calls(name: str, before: str = "", **arguments: str) -> Script:
    """Words, then a tool call, in chunks as a model writes it."""
    call = json.dumps({"name": name, "arguments": arguments})
    text = f"{before}<tool_call>{call}</tool_call>"

    async def script(ask: TurnRequest) -> AsyncGenerator[Event]:
        generation = Generation(text, tuple(range(9)), 30, "stop", 1.0, 2.0)
        answer = ParsedAnswer(before.strip(), (ToolCall(name=name, arguments=arguments),), True)
        for end in range(0, len(text), 7):
            yield Delta(text[end : end + 7], 30, 1 + end // 7)
        yield TurnEnd(
            generation, answer, measure_response(ask.messages, generation, answer, (), {name}), 3.0, cached_tokens=28
        )

    return script


FIND = calls("find_order", order_id="HL-20931")


class Tools:
    """Records its calls."""

    def __init__(self, result: Record, *decisions: Decision) -> None:
        self.calls: list[tuple[str, str | None, str]] = []
        self.result = result
        self.decisions = decisions

    def use(self, call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
        self.calls.append((call.name, customer, key))
        return ToolAnswer(self.result, self.decisions)


def assistant_with_tools(
    *scripts: Script, tools: Tools | None = None, max_tool_rounds: int = 2, **options: Any
) -> tuple[ScriptedAssistant, Tools]:
    tools = tools or Tools(Parcel(status="sent"))
    settings = load_settings(ROOT / PARAMS).tools.model_copy(
        update={"max_tool_rounds": max_tool_rounds, "unfinished_message": UNFINISHED}
    )
    return ScriptedAssistant(list(scripts), run_tool=tools.use, tools=settings, **options), tools


def test_a_call_is_run_and_its_result_read() -> None:
    async def run() -> None:
        assistant, tools = assistant_with_tools(FIND, answers("It has left."))
        body = (await assistant.post(user="C-1042")).json()
        (choice,) = body["choices"]
        assert choice["message"] == {"role": "assistant", "content": "It has left.", "refusal": None}
        assert choice["finish_reason"] == "stop"
        assert [(name, customer) for name, customer, _ in tools.calls] == [("find_order", "C-1042")]
        first, second = assistant.backend.requests
        assert [message.role for message in second.messages] == [*(m.role for m in first.messages), "assistant", "tool"]
        assert second.messages[-2].tool_calls == (ToolCall(name="find_order", arguments={"order_id": "HL-20931"}),)
        assert json.loads(second.messages[-1].content) == {"status": "sent"}

    asyncio.run(run())


def test_all_model_calls_are_charged_and_the_first_is_measured() -> None:
    async def run() -> None:
        assistant, _ = assistant_with_tools(FIND, answers("It has left."))
        usage = (await assistant.post()).json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (37, 14)
        (row,) = assistant.rows
        assert (row.all_prompt_tokens, row.all_completion_tokens, row.cached_tokens) == (37, 14, 28)
        assert (row.prompt_tokens, row.completion_tokens, row.tool_name) == (30, 9, "find_order")
        assert json.loads(row.steps) == [{"tool": "find_order", "outcome": "ok", "decisions": [], "found": []}]

    asyncio.run(run())


@pytest.mark.parametrize("before", ["", "Let me look. "])
def test_a_stream_shows_no_call_and_adds_up(before: str) -> None:
    async def run() -> None:
        script = calls("find_order", before=before, order_id="HL-20931")
        whole, _ = assistant_with_tools(script, answers("It has left."))
        _, answer = await whole.whole()
        assert answer == ("Let me look.\nIt has left." if before else "It has left.")
        assistant, _ = assistant_with_tools(script, answers("It has left."))
        response = await assistant.post(stream=True, stream_options={"include_usage": True})
        *events, last, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
        assert "".join(delta.get("content", "") for delta in deltas) == answer
        assert not any("tool_calls" in delta for delta in deltas)
        assert json.loads(last)["usage"]["total_tokens"] == 51
        assert done == "[DONE]"

    asyncio.run(run())


def test_a_rules_decision_is_in_the_row_and_its_reason_before_the_model() -> None:
    async def run() -> None:
        assistant, _ = assistant_with_tools(
            FIND, answers("Sorry."), tools=Tools(Failure(error="not_yours", message="Not yours."), NO)
        )
        await assistant.post(user="C-7")
        read = json.loads(assistant.backend.requests[-1].messages[-1].content)
        assert read == {"error": "not_yours", "message": "Not yours."}
        (step,) = json.loads(assistant.rows[0].steps)
        assert (step["outcome"], step["decisions"]) == ("not_yours", [NO.model_dump()])

    asyncio.run(run())


def test_a_model_that_goes_on_asking_is_ended() -> None:
    async def run() -> None:
        assistant, tools = assistant_with_tools(FIND, max_tool_rounds=3)
        assert (await assistant.whole())[1] == UNFINISHED
        assert len(tools.calls) == 3

    asyncio.run(run())


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [{"type": "function", "function": {"name": "find_order"}}]},
        {"logprobs": True},
    ],
)
def test_calls_of_the_clients_own_tools_are_the_clients_to_run(options: dict[str, Any]) -> None:
    async def run() -> None:
        assistant, tools = assistant_with_tools(FIND)
        (choice,) = (await assistant.post(**options)).json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "find_order"
        assert not tools.calls

    asyncio.run(run())


def test_a_request_that_is_sent_again_has_the_same_key() -> None:
    async def run() -> None:
        assistant, tools = assistant_with_tools(FIND, answers("Done."), FIND, answers("Done."), FIND, answers("Done."))
        for key in ("k", "k", None):
            await assistant.post(headers={"idempotency-key": key} if key else None)
        first, again, other = [key for *_, key in tools.calls]
        assert first == again
        assert first != other

    asyncio.run(run())


def test_a_turn_that_begins_anew_on_another_route_keeps_its_key() -> None:
    async def run() -> None:
        assistant, tools = assistant_with_tools(FIND, refuses(500, "engine_error"))
        assistant.backend.scripts["old"] = [FIND, answers("Done.")]
        assert (await assistant.whole())[1] == "Done."
        first, again = [key for *_, key in tools.calls]
        assert first == again

    asyncio.run(run())


def test_an_answer_with_a_tool_result_is_not_kept() -> None:
    async def run() -> None:
        cache = NO_CACHE.model_copy(update={"mb": 1, "max_age_s": 60})
        assistant, tools = assistant_with_tools(
            FIND, answers("It has left."), FIND, answers("It is there."), cache=cache
        )
        assert [(await assistant.whole())[1] for _ in range(2)] == ["It has left.", "It is there."]
        assert len(tools.calls) == 2

    asyncio.run(run())


def test_customers_do_not_share_answers() -> None:
    async def run() -> None:
        cache = NO_CACHE.model_copy(update={"mb": 1, "max_age_s": 60})
        assistant, _ = assistant_with_tools(answers("One."), answers("Two."), cache=cache)
        assert [(await assistant.whole(user=user))[1] for user in ("C-1", "C-2", "C-1")] == ["One.", "Two.", "One."]

    asyncio.run(run())


@pytest.mark.parametrize("owner", [True, False])
def test_over_http_an_order_is_cancelled_for_its_customer_alone(owner: bool, tmp_path: Path) -> None:
    """The real shop under its rules, and a model that asks for whatever it likes."""
    lines = (ROOT / SHOP_SEED / "orders.jsonl").read_text(encoding="utf-8").splitlines()
    order = next(order for line in lines if (order := json.loads(line))["status"] == "placed")
    customers = (ROOT / SHOP_SEED / "customers.jsonl").read_text(encoding="utf-8").splitlines()
    stranger = next(c["id"] for line in customers if (c := json.loads(line))["id"] != order["customer"])
    settings = load_settings(ROOT / PARAMS)
    shop = open_tool_service(settings.shop, tmp_path / "shop.sqlite", ROOT / SHOP_SEED)

    async def run() -> None:
        cancel = calls("cancel_order", order_id=order["id"])
        assistant = ScriptedAssistant([cancel, answers("Done.")], run_tool=shop.call, tools=settings.tools)
        await assistant.post(user=order["customer"] if owner else stranger)
        read = json.loads(assistant.backend.requests[-1].messages[-1].content)
        assert ("cancelled" if owner else "error") in read
        (step,) = json.loads(assistant.rows[0].steps)
        assert bool({d["outcome"] for d in step["decisions"]} - {"allow"}) != owner

    asyncio.run(run())
    with shop.shop.transaction(write=False) as transaction:
        found = transaction.order(order["id"])
    assert found and found.status == ("cancelled" if owner else "placed")
