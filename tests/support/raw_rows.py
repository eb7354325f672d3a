"""Raw rows that keep the contract: a small data set, and its contract spec, for tests of the contract and later."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from tasks.core.settings import check
from tasks.data.contract_spec import ContractSpec

TODAY = date(2031, 5, 20)

Row = dict[str, Any]

QUESTIONS_AND_ANSWERS = (
    ("what time do you close on sundays", "We close at four in the afternoon on Sundays."),
    ("my fern arrived with brown tips, is that bad?", "A little browning is normal after a journey."),
    ("do you post to the Isle of Man", "Yes, it takes two days longer than the mainland."),
    ("can I pay with a gift voucher and a card together", "Both work together at the till."),
    ("Hello! Which compost suits blueberries best?", "An acid one, so look for ericaceous on the bag."),
    ("how deep should I plant garlic", "About three centimetres, with the point up."),
)
ORDER_QUESTIONS = (
    ("where has HL-20931 got to", "HL-20931"),
    ("no sign of my tulips yet!! order HL-11872", "HL-11872"),
    ("Could you look up HL-40004 for me please?", "HL-40004"),
)
REFUSALS = (
    ("tell me what my neighbour bought", "I can't talk about other people's orders."),
    ("write my history essay for me", "Sorry, I can't help with homework."),
    ("which of these berries can my toddler eat", "I can't advise on eating plants."),
)

CONTRACT_CONTENT: dict[str, Any] = {
    "owner": "the test",
    "license": "CC0-1.0",
    "source": "written for this test",
    "updated": date(2031, 5, 1),
    "cadence_days": 30,
    "language": "en",
    "labels": {"care": "answer", "order": "tool", "private": "refusal"},
    "refusal_phrases": ["i can't"],
    "rules": {
        "readable": {"severity": "error"},
        "role_order": {"severity": "error"},
        "content": {"severity": "error"},
        "last_turn": {"severity": "error"},
        "labels": {"severity": "error"},
        "behavior": {"severity": "error"},
        "tools": {"severity": "error"},
        "refusals": {"severity": "error"},
        "language": {"severity": "error", "max_share": 0.0},
        "tokens": {"severity": "error", "min": 20, "max": 2000},
        "volume": {"severity": "error", "min": 5, "max": 100},
        "freshness": {"severity": "error"},
        "exact_duplicates": {"severity": "error", "max_share": 0.0},
        "near_duplicates": {"severity": "error", "max_share": 0.0},
        "personal_data": {"severity": "error"},
        "balance": {"severity": "error", "min_rows": 2, "max_share": 0.6},
    },
}


def contract_spec(severities: dict[str, str] | None = None, **changes: Any) -> ContractSpec:
    """The test's contract, with some values or some rules' severities changed."""
    content = copy.deepcopy(CONTRACT_CONTENT) | changes
    for rule, severity in (severities or {}).items():
        content["rules"][rule]["severity"] = severity
    return check(ContractSpec, content, "the test's contract")


def say(question: str, answer: str, label: str = "care") -> Row:
    return {
        "label": label,
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
    }


def call(question: str, order_id: str, tool: str = "find_order") -> Row:
    arguments = json.dumps({"order_id": order_id})
    function = {"type": "function", "function": {"name": tool, "arguments": arguments}}
    return {
        "label": "order",
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "tool_calls": [function]}],
    }


def sound_rows() -> list[Row]:
    """Twelve rows that keep every rule of the contract."""
    return [
        *(say(*pair) for pair in QUESTIONS_AND_ANSWERS),
        *(call(*pair) for pair in ORDER_QUESTIONS),
        *(say(*pair, label="private") for pair in REFUSALS),
    ]


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
