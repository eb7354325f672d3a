"""Tools that a model may call: typed functions, told to the model as schemas and run on its behalf.

A function `(context, arguments) -> result`, with a record for its arguments and one for its
result, becomes a `Tool` by the decorator `tool`; a `Toolbox` holds them. Whatever a model asks
for, the answer is data: an unknown tool, arguments that do not fit, a tool that fails or takes
too long are a `Failure`, never an exception. Nothing here knows what the tools do, or who may do
what: the first is a domain's, the second a policy's.
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
_SCHEMA_KEYS = ("type", "description", "pattern", "enum")

C = TypeVar("C")
A = TypeVar("A", bound=Record)
R = TypeVar("R", bound=Record)
T = TypeVar("T")
Caller = Literal["anyone", "customer"]


class Failure(Record):
    """A call that was refused or came to nothing: a code for machines, a sentence that a customer may be told."""

    error: str
    message: str


class ToolError(Exception):
    """Raised by a tool that cannot do what it was asked: the answer is its `failure`, and nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(error=code, message=message)


@dataclass(frozen=True)
class Tool(Generic[C]):
    """A function as a model sees it. `effect`: it changes something; `caller`: who may call it."""

    name: str
    description: str
    arguments: type[Record]
    result: type[Record]
    function: Callable[[C, Any], Record]
    effect: bool
    caller: Caller
    timeout_s: float

    def schema(self) -> dict[str, Any]:
        """The tool in OpenAI's shape."""
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
    """Make a function a tool of the same name, described by the first line of its docstring.

    Raises:
        TypeError: its second parameter or its result is not annotated with a `Record`.
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
    """A call whose tool exists and whose arguments fit."""

    tool: Tool[C]
    arguments: Record


class Once:
    """Something that is granted to the first who takes it.

    A tool takes it before its effect becomes final, who waits for the tool takes it when the time
    is up: so a call that is reported as too slow has changed nothing, and never will.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False

    def take(self) -> bool:
        with self._lock:
            first, self._taken = not self._taken, True
        return first


class Toolbox(Generic[C]):
    """Tools by name, in the order in which a model is shown them."""

    def __init__(self, tools: Iterable[Tool[C]]) -> None:
        self.tools = {tool.name: tool for tool in tools}

    def schemas(self) -> list[dict[str, Any]]:
        """All tools in OpenAI's shape."""
        return [tool.schema() for tool in self.tools.values()]

    def read(self, call: ToolCall) -> Call[C] | Failure:
        """The call with its arguments checked, or what is wrong with it."""
        tool = self.tools.get(call.name)
        if tool is None:
            return Failure(error="unknown_tool", message=f"There is no tool {call.name[:64]}.")
        try:
            return Call(tool, tool.arguments.model_validate(call.arguments))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or tool.name
            return Failure(error="bad_arguments", message=f"{place[:64]}: {first['msg']}.")

    def run(self, call: Call[C], perform: Callable[[Call[C], Once], T]) -> T | Failure:
        """What `perform` makes of a call, within the tool's `timeout_s`.

        `perform` runs in a thread of its own. It must take the `Once` before its effect becomes
        final, and undo all it did if it is not granted.
        """
        once = Once()
        answers: queue.Queue[T | Failure] = queue.Queue()

        def work() -> None:
            answers.put(_answer(call, perform, once))

        threading.Thread(target=work, name=f"tool-{call.tool.name}", daemon=True).start()
        try:
            return answers.get(timeout=call.tool.timeout_s)
        except queue.Empty:
            if once.take():
                return Failure(error="timeout", message="That took too long, and nothing was changed.")
            return answers.get()


def _answer(call: Call[C], perform: Callable[[Call[C], Once], T], once: Once) -> T | Failure:
    try:
        return perform(call, once)
    except ToolError as error:
        return error.failure
    except Exception:  # a fault of ours: it is logged, and the model is told in a sentence
        _LOG.exception("tool %s failed", call.tool.name)
        return Failure(error="failed", message="That did not work just now.")


def dump_result(result: Record) -> str:
    """A result as the text of a tool message: one line of JSON."""
    return json.dumps(result.model_dump(mode="json"), ensure_ascii=False)
