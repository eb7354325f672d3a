"""A scripted engine with fixed answers, for tests of the code that uses engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tasks.engine.protocol import FinishReason, GenerationRequest, TokenChunk

ScriptChunk = tuple[str, tuple[int, ...], FinishReason | None]
Script = Callable[[GenerationRequest], Iterator[ScriptChunk]]


class ScriptedEngine:
    """Each step adds the next chunk of its script to every open request."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[GenerationRequest] = []
        self.cancelled: list[GenerationRequest] = []
        self.together: list[int] = []
        self._open: dict[int, tuple[GenerationRequest, Iterator[ScriptChunk]]] = {}

    def submit(self, key: int, request: GenerationRequest) -> None:
        if key in self._open:
            raise ValueError(f"request {key} is open already")
        self.requests.append(request)
        self._open[key] = (request, self.script(request))

    def cancel(self, key: int) -> None:
        if key in self._open:
            self.cancelled.append(self._open.pop(key)[0])

    def step(self) -> list[TokenChunk]:
        self.together.append(len(self._open))
        chunks = []
        for key, (request, script) in list(self._open.items()):
            text, ids, reason = next(script)
            logprobs = tuple(logprob_of(token) for token in ids) if request.sampling.logprobs else ()
            chunks.append(TokenChunk(key, text, ids, reason, logprobs))
            if reason:
                del self._open[key]
        return chunks


def logprob_of(token: int) -> float:
    """The log-probability of this token in every `ScriptedEngine`."""
    return -token / 8


def says(text: str, size: int = 3) -> Script:
    """A script that answers every request with `text`, in chunks of `size` characters."""

    def script(_: GenerationRequest) -> Iterator[ScriptChunk]:
        chunks = [text[i : i + size] for i in range(0, len(text), size)] or [""]
        for number, chunk in enumerate(chunks):
            yield chunk, (number,), "stop" if number == len(chunks) - 1 else None

    return script
