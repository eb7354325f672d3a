"""Toolbox of the tools that a model may call: typed functions, shown to the model as schemas and run on its behalf.

A function `(context, arguments) -> result`, with a record for its arguments and one for its
result, becomes a `Tool` by the decorator `tool`; a `Toolbox` holds them. The answer to every call
is data: an unknown tool, arguments that do not fit, a tool that fails or takes too long are a
`Failure`, never an exception. This module contains only the mechanism: a domain defines the tools,
and a policy decides who may call them.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_type_hints

from pydantic import ValidationError

from tasks.core.records import Record, ToolCall

_LOG = logging.getLogger(__name__)
UNKNOWN_TOOL = "unknown_tool"
"""The error of a call of a tool that does not exist."""
_SCHEMA_KEYS = ("type", "description", "pattern", "enum")

C = TypeVar("C")
A = TypeVar("A", bound=Record)
R = TypeVar("R", bound=Record)
T = TypeVar("T")
Caller = Literal["anyone", "customer"]


class Failure(Record):
    """A tool call that was refused or failed."""

    error: str
    """The reason as a code for machines."""
    message: str
    """The reason as a sentence that may be shown to a customer."""


class ToolError(Exception):
    """Raised by a tool that cannot execute a call: the answer is its `failure`, and the tool has changed nothing."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(error=code, message=message)


@dataclass(frozen=True)
class Tool(Generic[C]):
    """A function with the description that a model sees, and the limits of its calls."""

    name: str
    """The tool's name."""
    description: str
    """The sentence that describes it to the model."""
    arguments: type[Record]
    """The record type of its arguments."""
    result: type[Record]
    """The record type of its result."""
    function: Callable[[C, Any], Record]
    """The function from a context and arguments to a result."""
    effect: bool
    """Whether it changes data."""
    caller: Caller
    """The users who may call it: anyone, or identified customers."""
    timeout_s: float
    """The longest run of a call, in seconds."""

    def schema(self) -> dict[str, Any]:
        """The tool's schema in OpenAI's format."""
        model = self.arguments.model_json_schema()
        properties = {
            name: {key: field[key] for key in _SCHEMA_KEYS if key in field}
            for name, field in model["properties"].items()
        }
        parameters = {
            "type": "object",
            "properties": properties,
            "required": model["required"],
            "additionalProperties": False,
        }
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def tool(*, effect: bool, caller: Caller, timeout_s: float) -> Callable[[Callable[[C, A], R]], Tool[C]]:
    """A decorator that makes a function a tool of the same name, described by the first line of its docstring.

    Raises:
        TypeError: the function's second parameter or its result is not annotated with a `Record`.
    """

    def make(function: Callable[[C, A], R]) -> Tool[C]:
        arguments, result = list(get_type_hints(function).values())[-2:]
        for annotation in (arguments, result):
            if not (isinstance(annotation, type) and issubclass(annotation, Record)):
                raise TypeError(f"{function.__name__}: arguments and result must be records, not {annotation}")
        description = (function.__doc__ or "").strip().splitlines()[0]
        return Tool(function.__name__, description, arguments, result, function, effect, caller, timeout_s)

    return make


@dataclass(frozen=True)
class Call(Generic[C]):
    """A validated tool call: the tool exists and the arguments fit its schema."""

    tool: Tool[C]
    """The tool to run."""
    arguments: Record
    """The parsed arguments."""


class Once:
    """A one-time grant: only the first thread that takes it gets it.

    A tool takes it before its effect becomes final, and the thread that waits for the tool takes it at the
    timeout. So a call that is reported as timed out has changed nothing, and never will.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False

    def take(self) -> bool:
        """Take the grant; return whether it was still free."""
        with self._lock:
            first, self._taken = not self._taken, True
        return first


class Toolbox(Generic[C]):
    """Tools by name, in the order in which the model sees them."""

    def __init__(self, tools: Iterable[Tool[C]]) -> None:
        self.tools = {tool.name: tool for tool in tools}

    def schemas(self) -> list[dict[str, Any]]:
        """The schemas of all tools in OpenAI's format."""
        return [tool.schema() for tool in self.tools.values()]

    def read(self, call: ToolCall) -> Call[C] | Failure:
        """The call with its arguments validated, or the failure that names its error."""
        tool = self.tools.get(call.name)
        if tool is None:
            return Failure(error=UNKNOWN_TOOL, message=f"There is no tool {call.name[:64]}.")
        try:
            return Call(tool, tool.arguments.model_validate(call.arguments))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or tool.name
            return Failure(error="bad_arguments", message=f"{field[:64]}: {first['msg']}.")

    def run(self, call: Call[C], perform: Callable[[Call[C], Once], T]) -> T | Failure:
        """The return value of `perform` for a call, or a failure when the tool's `timeout_s` is over.

        `perform` runs in a thread of its own. It must take the `Once` before its effect becomes
        final, and undo all its changes if the `Once` is not granted.
        """
        once = Once()
        results: queue.Queue[T | Failure] = queue.Queue()

        def work() -> None:
            results.put(_answer(call, perform, once))

        threading.Thread(target=work, name=f"tool-{call.tool.name}", daemon=True).start()
        try:
            return results.get(timeout=call.tool.timeout_s)
        except queue.Empty:
            if once.take():
                return Failure(error="timeout", message="That took too long, and nothing was changed.")
            return results.get()


def _answer(call: Call[C], perform: Callable[[Call[C], Once], T], once: Once) -> T | Failure:
    try:
        return perform(call, once)
    except ToolError as error:
        return error.failure
    except Exception:  # an internal error: it is logged, and the model reads one sentence
        _LOG.exception("tool %s failed", call.tool.name)
        return Failure(error="failed", message="That did not work just now.")


def dump_result(result: Record) -> str:
    """The text of a tool message with this result: one line of JSON."""
    return json.dumps(result.model_dump(mode="json"), ensure_ascii=False)
