"""Response features of one answer.

Also covers `tasks/text/refusals.py`.
"""

from __future__ import annotations

from tasks.core.records import Message, ToolCall
from tasks.engine.protocol import Generation
from tasks.evaluation.response_features import CATEGORICAL, NUMERIC, ResponseFeatures, measure_response
from tasks.prompt.tool_calls import ParsedAnswer


def test_counts_the_last_question_and_the_answer() -> None:
    messages = [
        Message(role="user", content="hello"),
        Message(role="assistant", content="Hi, which order?"),
        Message(role="user", content="12345"),
    ]
    call = ToolCall(name="find_order", arguments={"order_id": "HL-12345"})
    generation = Generation("x", (1, 2, 3), 40, "stop", 1.0, 2.0)
    features = measure_response(
        messages, generation, ParsedAnswer("", (call,), valid=True), ("i can't",), {"find_order"}
    )
    assert features == ResponseFeatures(
        user_chars=5,
        turns=2,
        prompt_tokens=40,
        completion_tokens=3,
        answer_chars=0,
        finish_reason="stop",
        tool_name="find_order",
        refused=False,
        valid_format=True,
    )
    assert set(NUMERIC) | set(CATEGORICAL) == set(ResponseFeatures.model_fields)


def test_a_name_that_the_model_made_up_is_not_recorded() -> None:
    """It comes from the conversation, and the drift report would show it."""
    generation = Generation("x", (1,), 4, "stop", 1.0, 2.0)
    call = ToolCall(name="<script>alert('Ada Lovelace')</script>", arguments={})
    for tools in ({"find_order"}, set[str]()):
        features = measure_response([], generation, ParsedAnswer("", (call,), valid=True), (), tools)
        assert features.tool_name == "(unknown)"
    assert measure_response([], generation, ParsedAnswer("no", (), valid=True), (), ()).tool_name == ""
