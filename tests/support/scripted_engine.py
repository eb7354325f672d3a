"""An engine whose every word is known, for tests of what stands around engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tasks.engine.protocol import FinishReason, GenerationRequest, TokenChunk

Piece = tuple[str, tuple[int, ...], FinishReason | None]
Script = Callable[[GenerationRequest], Iterator[Piece]]


class ScriptedEngine:
    """Each step gives every open request the next piece of its script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[GenerationRequest] = []
        self.cancelled: list[GenerationRequest] = []
        self.together: list[int] = []
        self._open: dict[int, tuple[GenerationRequest, Iterator[Piece]]] = {}

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
        for key, (request, pieces) in list(self._open.items()):
            text, ids, reason = next(pieces)
            logprobs = tuple(logprob_of(token) for token in ids) if request.sampling.logprobs else ()
            chunks.append(TokenChunk(key, text, ids, reason, logprobs))
            if reason:
                del self._open[key]
        return chunks


def logprob_of(token: int) -> float:
    """What a `ScriptedEngine` says of every choice of this token."""
    return -token / 8


def says(text: str, size: int = 3) -> Script:
    """`text` in pieces of `size` characters, whatever is asked."""

    def script(_: GenerationRequest) -> Iterator[Piece]:
        pieces = [text[i : i + size] for i in range(0, len(text), size)] or [""]
        for number, piece in enumerate(pieces):
            yield piece, (number,), "stop" if number == len(pieces) - 1 else None

    return script
