"""Decoding state of one request: its tokens, its finish reason, and how much of its text is final.

The engines share it, so that stop strings and incomplete characters are treated the same on each.
"""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tasks.engine.protocol import FinishReason, GenerationRequest, TokenChunk


class Decoding:
    """The state of one request while the model decodes it token by token.

    Args:
        key: the request's key in the engine.
        request: the prompt, sampling parameters and stop strings.
        tokenizer: the base model's tokenizer.
        end_of_turn: id of the token that ends a turn.
    """

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
        """Add the next token; return it with the text that has become final."""
        self.ids.append(token)
        if token == self._end_of_turn:
            self.finish_reason = "stop"
        elif len(self.ids) >= self._max_new_tokens:
            self.finish_reason = "length"
        self._text += self._stream.step(self._tokenizer, token) or ""
        if self.finish_reason:  # no further token can complete a character that is cut
            self._text = self._tokenizer.decode(self.ids, skip_special_tokens=True)
        ready = self._ready()
        new, self._sent = self._text[self._sent : ready], ready
        scores = () if logprob is None else (logprob,)
        return TokenChunk(self.key, new, (token,), self.finish_reason, scores, self.cached_tokens)

    def _ready(self) -> int:
        """The length of the final text, in characters: it excludes a stop string and any possible start of one."""
        stops = [start for stop in self._stop if (start := self._text.find(stop, self._sent)) >= 0]
        if stops:
            self.finish_reason = "stop"
            return min(stops)
        if self.finish_reason:
            return len(self._text)
        stop_beginnings = [
            size
            for stop in self._stop
            for size in range(1, min(len(stop), len(self._text) - self._sent + 1))
            if self._text.endswith(stop[:size])
        ]
        return len(self._text) - max(stop_beginnings, default=0)
