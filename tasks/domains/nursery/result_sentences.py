"""Result sentences: a tool's result in the words that replace an answer which contradicts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

from tasks.tools.policy import ToolResult

Result = dict[str, Any]


def result_sentence(tool_result: ToolResult) -> str:
    """The sentence for a tool's result; a failure brings its own."""
    result: Result = json.loads(tool_result.result)
    return str(result["message"]) if "error" in result else _SENTENCES[tool_result.tool](result)


def _order(result: Result) -> str:
    day = _day(result["day"]) if result["day"] else ""
    by = f" with {result['courier']}" if result["courier"] else ""
    return {
        "placed": f"Your order is placed and leaves on {day}.",
        "packed": f"Your order is packed and leaves on {day}.",
        "sent": f"Your order left on {day}{by}.",
        "delivered": f"Your order was delivered on {day}{by}.",
        "cancelled": "That order is cancelled.",
    }[result["status"]]


def _return(result: Result) -> str:
    pays = "The postage is ours" if result["postage"] == "ours" else "The postage is yours to pay"
    return f"Your return is open under {result['return_id']}. {pays}."


def _claim(result: Result) -> str:
    promise = {"fresh_arrival": "Fresh Arrival", "first_season": "First Season"}[result["promise"]]
    return f"Your claim is open under {result['claim_id']}, by our {promise} promise."


def _stock(result: Result) -> str:
    if not result["in_stock"]:
        return f"{result['item'].capitalize()} is out of stock at the moment; it costs £{result['price']}."
    return f"{result['item'].capitalize()} is in stock at £{result['price']}."


def _slots(result: Result) -> str:
    days = [_day(day) for day in result["days"]]
    return f"It may come on {', '.join(days)}." if days else "There is no other day for it."


def _day(iso: str) -> str:
    day = date.fromisoformat(iso)
    return f"{day:%A} {day.day} {day:%B}"


_SENTENCES: dict[str, Callable[[Result], str]] = {
    "find_order": _order,
    "change_delivery": lambda result: f"Your delivery is moved to {_day(result['moved_to'])}.",
    "cancel_order": lambda _: "Your order is cancelled.",
    "start_return": _return,
    "open_claim": _claim,
    "check_stock": _stock,
    "hand_over": lambda result: f"I've passed this on to a person; your ticket is {result['ticket']}.",
    "delivery_slots": _slots,
    "refund_order": lambda result: f"£{result['refunded']} is refunded to you.",
}
