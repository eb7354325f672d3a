"""Systems of the serving benchmark, which answer the same prompts, each in processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.serving.closed_loop_clients import Answer, Chat, Tool, drive
from deployments.core.ports import HOST, free_port
from deployments.serve.ray_head import node_environment
from deployments.stack.processes import start, stop, wait_ready
from tasks.core.errors import GraftError
from tasks.engine.resources import Resources

_START_S = 300.0
_STOP_S = 20.0
_PAGED = ("--cb-num-blocks", "64", "--cb-max-batch-tokens", "2048")
"""A KV cache of 16,384 tokens, and llama.cpp's batch size: by default it takes half of the machine's memory."""

Drive = Callable[[Sequence[str], int, int], list[Answer]]
"""A function of users' messages, number of concurrent requests and maximum tokens of an answer to the answers."""


@dataclass(frozen=True)
class System:
    """A running system."""

    name: str
    """Name in the table."""
    pid: int
    """Its first process; its other processes are descendants."""
    drive: Drive
    """Sends requests in a closed loop."""


@dataclass(frozen=True)
class ServedModel:
    """A model behind an OpenAI endpoint."""

    url: str
    """Base URL of the OpenAI API."""
    model: str
    """Model id."""
    opening: Chat
    """Messages before the user's."""
    tools: tuple[Tool, ...] = ()
    """The client's tools."""

    def drive(self, texts: Sequence[str], concurrent: int, max_tokens: int) -> list[Answer]:
        """See `Drive`."""
        chats = [self._chat(text) for text in texts]
        return asyncio.run(drive(self.url, self.model, chats, concurrent, max_tokens, self.tools))

    def _chat(self, text: str) -> Chat:
        return [*self.opening, {"role": "user", "content": text}]


@contextmanager
def engine_alone(package: Path, base: Path, resources: Resources) -> Iterator[System]:
    """The package's engine without HTTP; see `benchmarks/serving/engine_alone.py`."""
    options = [str(package), str(base), str(resources.threads), str(resources.cache_gb)]
    argv = [sys.executable, "-m", "benchmarks.serving.engine_alone", *options]
    environment = {**os.environ, **node_environment()}
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        jobs, answers = child.stdin, child.stdout

        def drive(texts: Sequence[str], concurrent: int, max_tokens: int) -> list[Answer]:
            jobs.write(json.dumps({"texts": texts, "concurrent": concurrent, "max_tokens": max_tokens}) + "\n")
            jobs.flush()
            line = answers.readline()
            if not line:
                raise GraftError("the engine's process ended; its reason is above")
            return [Answer(**answer) for answer in json.loads(line)]

        try:
            yield System("engine alone", child.pid, drive)
        finally:
            with contextlib.suppress(BrokenPipeError):
                jobs.close()  # the process ends with its input


@contextmanager
def llama_cpp(model: Path, opening: Chat, threads: int, slots: int, root: Path) -> Iterator[System]:
    """llama.cpp's server on a GGUF file.

    Args:
        model: the GGUF file.
        opening: messages before the user's.
        threads: number of CPU threads.
        slots: number of requests that are decoded concurrently.
        root: working directory.
    """
    port = free_port()
    options = [str(model), str(port), str(threads), str(slots)]
    served = ServedModel(f"http://{HOST}:{port}/v1", "any", opening)
    argv = [sys.executable, "-m", "benchmarks.serving.llama_cpp_server", *options]
    with server("llama.cpp", argv, {}, lambda: answers(f"http://{HOST}:{port}/health"), root) as pid:
        yield System("llama.cpp", pid, served.drive)


@contextmanager
def transformers_serve(model: Path, opening: Chat, threads: int, root: Path) -> Iterator[System]:
    """`transformers serve` on a model folder.

    Args:
        model: folder of the model.
        opening: messages before the user's.
        threads: number of CPU threads.
        root: working directory.
    """
    port = free_port()
    program = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    options = ["--host", HOST, "--port", str(port), "--device", "cpu", "--continuous-batching", *_PAGED]
    served = ServedModel(f"http://{HOST}:{port}/v1", str(model), opening)
    environment = {"OMP_NUM_THREADS": str(threads)}
    health = f"http://{HOST}:{port}/health"
    with server("transformers", [*program, *options], environment, lambda: answers(health), root) as pid:
        yield System("transformers serve", pid, served.drive)


def answers(url: str) -> bool:
    """Whether a server answers at a URL."""
    try:
        return httpx.get(url, timeout=5.0).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def server(
    name: str, argv: Sequence[str], more: Mapping[str, str], ready: Callable[[], bool], root: Path
) -> Iterator[int]:
    """Run a server in a session of its own until the block ends; yield its pid once it is ready.

    Args:
        name: name of its log.
        argv: command line.
        more: environment variables beside the caller's.
        ready: whether it answers.
        root: working directory.

    Raises:
        GraftError: it ended, or did not answer in time; the message has the end of its log.
    """

    record = start(name, argv, {**os.environ, **node_environment(), **more}, root)
    try:
        wait_ready(record, ready, _START_S, root)
        yield record.pid
    finally:
        stop(record, _STOP_S)
