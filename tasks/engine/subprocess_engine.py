"""An engine in a process of its own, for who has other things to do while it computes.

An engine that holds Python's global lock during a step (OpenVINO's does) stops every other thread of
its process for as long; a server's event loop would get a turn once a step.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from tasks.engine import grammar
from tasks.engine.protocol import Constraint, Engine, GenerationRequest, TokenChunk


class EngineLostError(RuntimeError):
    """The engine's process has ended, and with it everything that was open."""


class SubprocessEngine:
    """Passes the protocol on to an engine that `opens` makes in a new process, which ends with this one.

    Args:
        opens: makes the engine there; must be picklable.
        check: refuses, here, what the engine would refuse there, where it is nobody's own any more.

    Raises:
        Exception: what `opens` raises.
    """

    def __init__(self, opens: Callable[[], Engine], check: Callable[[Constraint], None] = grammar.check) -> None:
        self._check = check
        self._ids = count()  # the process's own keys: one that was cancelled may still gain something
        self._open: dict[int, int] = {}
        self._pipe, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            path = os.pathsep.join(filter(None, sys.path))
            environment = {**os.environ, "PYTHONPATH": path}
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self._pipe.send(opens)
        self._receive()

    @property
    def pid(self) -> int:
        """Of the engine's process."""
        return self._process.pid

    def submit(self, key: int, request: GenerationRequest) -> None:
        """See `Engine.submit`."""
        if key in self._open.values():
            raise ValueError(f"request {key} is open already")
        if request.sampling.constraint:
            self._check(request.sampling.constraint)
        place = next(self._ids)
        self._pipe.send((place, request))
        self._open[place] = key

    def cancel(self, key: int) -> None:
        """See `Engine.cancel`."""
        for place in [place for place, known in self._open.items() if known == key]:
            del self._open[place]
            self._pipe.send((place, None))

    def step(self) -> list[TokenChunk]:
        """See `Engine.step`. Waits for the process's next step, without the global lock.

        Raises:
            EngineLostError: there is no process any more.
            Exception: what the engine's step raised.
        """
        if not self._open:
            return []
        chunks = [
            replace(chunk, key=self._open[chunk.key]) for chunk in self._receive() or () if chunk.key in self._open
        ]
        finished = {chunk.key for chunk in chunks if chunk.finish_reason}
        self._open = {place: key for place, key in self._open.items() if key not in finished}
        return chunks

    def _receive(self) -> Any:
        try:
            found = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise EngineLostError(f"the engine's process ended with {self._process.wait()}") from None
        if isinstance(found, Exception):
            raise found
        return found


def main() -> None:
    """The engine's process: its argument is the number of an open pipe, over which it is told what to open."""
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    # Who started this process is gone, or has enough: nothing is left to do.
    with suppress(EOFError, ConnectionError):
        try:
            engine: Engine = pipe.recv()()
        except Exception as error:
            pipe.send(error)
            return
        pipe.send(None)
        _work(engine, pipe)


def _work(engine: Engine, pipe: Connection[Any, Any]) -> None:
    busy: set[int] = set()
    while True:
        while not busy or pipe.poll():
            place, request = pipe.recv()
            if request is None:
                engine.cancel(place)
                busy.discard(place)
            else:
                try:
                    engine.submit(place, request)
                    busy.add(place)
                except Exception as error:  # the next step tells it
                    pipe.send(error)
        try:
            chunks = engine.step()
        except Exception as error:  # it belongs to those who asked; they will cancel what they had
            pipe.send(error)
            for place in busy:
                engine.cancel(place)
            busy.clear()
            continue
        busy -= {chunk.key for chunk in chunks if chunk.finish_reason}
        if chunks:
            pipe.send(chunks)


if __name__ == "__main__":
    main()
