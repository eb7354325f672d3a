"""An engine in a subprocess, so that the other threads of the calling process run while it computes.

An engine that holds Python's global interpreter lock (GIL) during a step, as OpenVINO's does, stops every
other thread of its process for that time; a server's event loop would run only once per step.
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
    """The engine's process has ended, and all open requests are lost."""


class SubprocessEngine:
    """A proxy for an engine that `factory` creates in a new process, which ends with this one.

    Args:
        factory: creates the engine in the new process; must be picklable.
        check: validates a constraint in this process, because an error in the engine's process could not be
            assigned to a request.

    Raises:
        Exception: the error that `factory` raises.
    """

    def __init__(self, factory: Callable[[], Engine], check: Callable[[Constraint], None] = grammar.check) -> None:
        self._check = check
        self._ids = count()  # own ids for the process: it may still send chunks of a request that was canceled
        self._open: dict[int, int] = {}
        self._pipe, child_end = Pipe()
        with child_end:
            command = [sys.executable, "-m", __name__, str(child_end.fileno())]
            path = os.pathsep.join(filter(None, sys.path))
            environment = {**os.environ, "PYTHONPATH": path}
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[child_end.fileno()]
            )
        self._pipe.send(factory)
        self._receive()

    @property
    def pid(self) -> int:
        """The id of the engine's process."""
        return self._process.pid

    def submit(self, key: int, request: GenerationRequest) -> None:
        """See `Engine.submit`."""
        if key in self._open.values():
            raise ValueError(f"request {key} is open already")
        if request.sampling.constraint:
            self._check(request.sampling.constraint)
        request_id = next(self._ids)
        self._pipe.send((request_id, request))
        self._open[request_id] = key

    def cancel(self, key: int) -> None:
        """See `Engine.cancel`."""
        for request_id in [request_id for request_id, open_key in self._open.items() if open_key == key]:
            del self._open[request_id]
            self._pipe.send((request_id, None))

    def step(self) -> list[TokenChunk]:
        """See `Engine.step`. Waits for the process's next step without holding the GIL.

        Raises:
            EngineLostError: the process has ended.
            Exception: the error that the engine's step raised.
        """
        if not self._open:
            return []
        chunks = [
            replace(chunk, key=self._open[chunk.key]) for chunk in self._receive() or () if chunk.key in self._open
        ]
        finished = {chunk.key for chunk in chunks if chunk.finish_reason}
        self._open = {request_id: key for request_id, key in self._open.items() if key not in finished}
        return chunks

    def _receive(self) -> Any:
        try:
            message = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise EngineLostError(f"the engine's process ended with exit code {self._process.wait()}") from None
        if isinstance(message, Exception):
            raise message
        return message


def main() -> None:
    """The engine's process: its argument is the file descriptor of an open pipe, which sends the engine's factory."""
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    # The parent process has ended or closed the pipe, so this process has nothing left to do.
    with suppress(EOFError, ConnectionError):
        try:
            engine: Engine = pipe.recv()()
        except Exception as error:
            pipe.send(error)
            return
        pipe.send(None)
        _serve(engine, pipe)


def _serve(engine: Engine, pipe: Connection[Any, Any]) -> None:
    busy: set[int] = set()
    while True:
        while not busy or pipe.poll():
            request_id, request = pipe.recv()
            if request is None:
                engine.cancel(request_id)
                busy.discard(request_id)
            else:
                try:
                    engine.submit(request_id, request)
                    busy.add(request_id)
                except Exception as error:  # raised by the parent's next step
                    pipe.send(error)
        try:
            chunks = engine.step()
        except Exception as error:  # the parent raises it; its callers cancel their requests
            pipe.send(error)
            for request_id in busy:
                engine.cancel(request_id)
            busy.clear()
            continue
        busy -= {chunk.key for chunk in chunks if chunk.finish_reason}
        if chunks:
            pipe.send(chunks)


if __name__ == "__main__":
    main()
