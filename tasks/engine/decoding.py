"""Decoding state of one request: its finish reason, and how much of its text is final.

Shared by the engines, so that stop strings and incomplete characters are handled the same on each.
"""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tasks.engine.protocol import FinishReason, GenerationRequest, TokenChunk


class Decoding:
    """Takes a request's tokens one by one, as the model chooses them."""

    def __init__(self, key: int, request: GenerationRequest, tokenizer: Tokenizer, end_of_turn: int) -> None:
        self.key = key
        self.request = request
        self.ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._max_new_tokens = request.max_new_tokens
        self._stop = request.sampling.stop
        self._tokenizer = tokenizer
        self._end_of_turn = end_of_turn
        self._stream = DecodeStream(skip_special_tokens=True)
        self.cached_tokens = 0
        self._text = ""
        self._sent = 0

    def accept(self, token: int, logprob: float | None = None) -> TokenChunk:
        """Take the next token and give what it adds to the text."""
        self.ids.append(token)
        if token == self._end_of_turn:
            self.finish_reason = "stop"
        elif len(self.ids) >= self._max_new_tokens:
            self.finish_reason = "length"
        self._text += self._stream.step(self._tokenizer, token) or ""
        if self.finish_reason:  # half a character is now all there will be of it
            self._text = self._tokenizer.decode(self.ids, skip_special_tokens=True)
        ready = self._ready()
        new, self._sent = self._text[self._sent : ready], ready
        scores = () if logprob is None else (logprob,)
        return TokenChunk(self.key, new, (token,), self.finish_reason, scores, self.cached_tokens)

    def _ready(self) -> int:
        """How much of the text is final: nothing of a stop string, nor what may be the start of one."""
        found = [place for stop in self._stop if (place := self._text.find(stop, self._sent)) >= 0]
        if found:
            self.finish_reason = "stop"
            return min(found)
        if self.finish_reason:
            return len(self._text)
        held = [
            size
            for stop in self._stop
            for size in range(1, min(len(stop), len(self._text) - self._sent + 1))
            if self._text.endswith(stop[:size])
        ]
        return len(self._text) - max(held, default=0)
