"""Packages that answer by a script, and a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from deployments.events import Ask, Delta, Event, Finished, Refused
from tasks.engine.protocol import Generation
from tasks.features import measure
from tasks.prompt import Answer

Script = Callable[[Ask], AsyncGenerator[Event]]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class ScriptedBackend:
    """Each ask of an application plays the next of its scripts; the last one goes on for ever."""

    scripts: dict[str, list[Script]]
    asked: list[str] = field(default_factory=list)

    def ask(self, app: str, ask: Ask) -> AsyncGenerator[Event]:
        self.asked.append(app)
        scripts = self.scripts[app]
        return (scripts.pop(0) if len(scripts) > 1 else scripts[0])(ask)


@dataclass
class Counted:
    """`Meters` that keep what they were told."""

    told: list[tuple[str, ...]] = field(default_factory=list)

    def tried(self, route: str, outcome: str) -> None:
        self.told.append(("tried", route, outcome))

    def retried(self, route: str, granted: bool) -> None:
        self.told.append(("retried", route, str(granted)))

    def breaker(self, model: str, state: str) -> None:
        self.told.append(("breaker", model, state))


def answers(text: str) -> Script:
    """`text` in two pieces."""

    async def script(ask: Ask) -> AsyncGenerator[Event]:
        generation = Generation(text, tuple(range(5)), 7, "stop", 1.0, 2.0)
        answer = Answer(text, (), True)
        yield Delta(text[:2])
        yield Delta(text[2:])
        yield Finished(generation, answer, measure(ask.messages, generation, answer, ()), 3.0)

    return script


def refuses(status: int, code: str, after: str = "") -> Script:
    """A refusal, in the middle of an answer if it began with `after`."""

    async def script(_: Ask) -> AsyncGenerator[Event]:
        if after:
            yield Delta(after)
        yield Refused(status, code, f"refused: {code}")

    return script
