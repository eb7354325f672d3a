"""The toolbox: functions as schemas, and every call of a model answered with data."""

from __future__ import annotations

import threading
from typing import Any, Literal

import pytest
from pydantic import Field

from tasks.core.records import Record, ToolCall
from tasks.tools.toolbox import Call, Failure, Once, Tool, Toolbox, ToolError, dump_result, tool


class PotArguments(Record):
    size: int = Field(description="How big.")
    color: Literal["red", "blue"]


class PotResult(Record):
    made: str | None


@tool(effect=True, caller="customer", timeout_s=0.05)
def make_pot(prefix: str, arguments: PotArguments) -> PotResult:
    """Make a pot.

    More about pots, which the model does not see.
    """
    return PotResult(made=f"{prefix} {arguments.color} {arguments.size}")


TOOLS: Toolbox[str] = Toolbox([make_pot])


def call(**arguments: Any) -> Call[str]:
    parsed = TOOLS.read(ToolCall(name="make_pot", arguments=arguments))
    assert isinstance(parsed, Call)
    return parsed


def run(call: Call[str], once: Once) -> Record:
    assert once.take()
    return call.tool.function("a", call.arguments)


def test_a_function_has_a_schema_in_openais_format() -> None:
    assert TOOLS.schemas() == [
        {
            "type": "function",
            "function": {
                "name": "make_pot",
                "description": "Make a pot.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "size": {"type": "integer", "description": "How big."},
                        "color": {"type": "string", "enum": ["red", "blue"]},
                    },
                    "required": ["size", "color"],
                    "additionalProperties": False,
                },
            },
        }
    ]


def test_a_tool_knows_its_records_and_what_it_is_for() -> None:
    assert (make_pot.arguments, make_pot.result) == (PotArguments, PotResult)
    assert (make_pot.effect, make_pot.caller, make_pot.timeout_s) == (True, "customer", 0.05)


def test_a_function_without_records_is_no_tool() -> None:
    def bad(prefix: str, size: int) -> PotResult:
        """Bad."""
        return PotResult(made=prefix * size)

    with pytest.raises(TypeError, match="bad: arguments and result must be records"):
        tool(effect=False, caller="anyone", timeout_s=1.0)(bad)  # type: ignore[type-var]


def test_a_call_that_fits_is_run() -> None:
    assert TOOLS.run(call(size=3, color="red"), run) == PotResult(made="a red 3")


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("make_cup", {}, "unknown_tool", "make_cup"),
        ("make_pot", {"size": 3}, "bad_arguments", "color: Field required"),
        ("make_pot", {"size": "three", "color": "red"}, "bad_arguments", "size: Input should be a valid integer"),
        ("make_pot", {"size": 3, "color": "green"}, "bad_arguments", "color: Input should be 'red' or 'blue'"),
        ("make_pot", {"size": 3, "color": "red", "more": 1}, "bad_arguments", "more: Extra inputs"),
    ],
)
def test_a_call_that_does_not_fit_is_data(name: str, arguments: dict[str, Any], error: str, message: str) -> None:
    parsed = TOOLS.read(ToolCall(name=name, arguments=arguments))
    assert isinstance(parsed, Failure)
    assert parsed.error == error
    assert message in parsed.message


def test_a_tool_that_says_no_is_data() -> None:
    def refuse(call: Call[str], once: Once) -> Record:
        raise ToolError("not_sold", f"No {call.tool.name} {once.take()}.")

    assert TOOLS.run(call(size=3, color="red"), refuse) == Failure(error="not_sold", message="No make_pot True.")


def test_a_tool_that_breaks_is_data_and_tells_nothing_of_itself() -> None:
    def fail(call: Call[str], once: Once) -> Record:
        raise ZeroDivisionError(f"secret {call} {once}")

    failure = TOOLS.run(call(size=3, color="red"), fail)
    assert isinstance(failure, Failure)
    assert (failure.error, "secret" in failure.message) == ("failed", False)


def test_a_tool_that_takes_too_long_may_not_become_final() -> None:
    begin, ended = threading.Event(), threading.Event()
    granted: list[bool] = []

    def dawdle(call: Call[str], once: Once) -> Record:
        begin.wait()
        granted.append(once.take())
        ended.set()
        return call.tool.function("late", call.arguments)

    failure = TOOLS.run(call(size=3, color="red"), dawdle)
    assert isinstance(failure, Failure)
    assert failure.error == "timeout"
    begin.set()
    assert ended.wait(10)
    assert granted == [False]


def test_a_tool_that_was_final_in_time_is_waited_for() -> None:
    gone = threading.Event()

    def finish_slowly(call: Call[str], once: Once) -> Record:
        assert once.take()
        gone.wait(10 * call.tool.timeout_s)
        return call.tool.function("done", call.arguments)

    assert TOOLS.run(call(size=3, color="red"), finish_slowly) == PotResult(made="done red 3")


def test_one_of_many_is_granted() -> None:
    once = Once()
    assert [once.take() for _ in range(5)] == [True, False, False, False, False]


def test_a_result_is_one_line_with_its_keys_in_order() -> None:
    assert dump_result(PotResult(made=None)) == '{"made": null}'
    assert dump_result(Failure(error="a", message="b")) == '{"error": "a", "message": "b"}'


def test_the_order_of_tools_is_that_of_the_toolbox() -> None:
    other = Tool(
        "other", "Other.", PotArguments, PotResult, make_pot.function, effect=False, caller="anyone", timeout_s=1.0
    )
    assert list(Toolbox([other, make_pot]).tools) == ["other", "make_pot"]
