"""Result sentences of each tool, on results of the real tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core.paths import SHOP_SEED
from tasks.core.records import ToolCall
from tasks.core.settings import load_settings
from tasks.domains.nursery.answer_rules import AnswerFacts, check_answer
from tasks.domains.nursery.result_sentences import result_sentence
from tasks.domains.nursery.tool_service import ToolService, open_tool_service
from tasks.domains.nursery.tools import TOOLS
from tasks.tools.policy import ToolResult, first_refusal
from tasks.tools.toolbox import dump_result
from tests.conftest import ROOT


@pytest.fixture
def desk(tmp_path: Path) -> ToolService:
    return open_tool_service(load_settings(ROOT / "params.yaml").shop, tmp_path / "shop.sqlite", ROOT / SHOP_SEED)


def test_every_result_that_a_fresh_shop_gives_can_be_told(desk: ToolService) -> None:
    covered: set[str] = set()
    for line in (ROOT / SHOP_SEED / "orders.jsonl").read_text(encoding="utf-8").splitlines()[::6]:
        order = json.loads(line)
        item = order["lines"][0]["item"]
        arguments = {
            "find_order": {},
            "delivery_slots": {},
            "change_delivery": {"date": "04-23"},
            "start_return": {"item": item},
            "open_claim": {"item": item, "problem": "dead"},
            "refund_order": {"reason": "late"},
            "cancel_order": {},
        }
        calls = {name: {"order_id": order["id"], **rest} for name, rest in arguments.items()}
        calls |= {"check_stock": {"item": item}, "hand_over": {"topic": "other"}}
        for name, arguments in calls.items():
            call = ToolCall(name=name, arguments=arguments)
            tool_result = ToolResult(
                name, dump_result(desk.call(call, order["customer"], f"{order['id']}:{name}").result)
            )
            text = result_sentence(tool_result)
            assert text.endswith(".") and "{" not in text and "None" not in text
            if "error" not in tool_result.result:
                covered.add(name)
                assert first_refusal(check_answer(text, AnswerFacts(tool_results=(tool_result,)))) is None, text
    assert covered == {schema["function"]["name"] for schema in TOOLS.schemas()}


@pytest.mark.parametrize(
    ("tool", "result", "text"),
    [
        (
            "find_order",
            {"status": "sent", "items": ["1 x fern"], "courier": "Parcelway", "day": "2026-04-13"},
            "Your order left on Monday 13 April with Parcelway.",
        ),
        ("cancel_order", {"cancelled": True}, "Your order is cancelled."),
        (
            "check_stock",
            {"item": "rose iceberg", "in_stock": 0, "price": "16.00"},
            "Rose iceberg is out of stock at the moment; it costs £16.00.",
        ),
        ("refund_order", {"refunded": "6.95"}, "£6.95 is refunded to you."),
        ("cancel_order", {"error": "too_late", "message": "It is packed already."}, "It is packed already."),
    ],
)
def test_told(tool: str, result: dict[str, object], text: str) -> None:
    assert result_sentence(ToolResult(tool, json.dumps(result))) == text
