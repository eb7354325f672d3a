"""Completions API (OpenAI's legacy): continues a text as it is, without chat template or tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, field_validator

from deployments.app.openai.protocol import Api, Head, usage
from deployments.app.openai.requests import TextRequest, only
from deployments.core.messages import Delta, TokenLogprob, TurnEnd, TurnRequest
from tasks.engine.protocol import SamplingParams

_MAX_TOKENS = 16
"""OpenAI's default for a legacy request."""

Text = Annotated[str, Field(min_length=1)]


class CompletionRequest(TextRequest):
    """The body of `POST /v1/completions`: one prompt, as text."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    """The text to continue, or a list of one text."""

    logprobs: Annotated[int, *only(0)] | None = None
    """At 0, the log-probability of each token is returned; alternatives are not supported."""
    best_of: Annotated[int, *only(1)] | None = None
    """Number of answers to choose from."""
    echo: Annotated[bool, *only(False)] | None = None
    """Not supported."""
    suffix: Annotated[str, *only("")] | None = None
    """Not supported."""

    @field_validator("prompt", mode="before")
    @classmethod
    def _check_prompt(cls, value: object) -> object:
        if isinstance(value, list) and any(isinstance(part, int | list) for part in value):
            raise ValueError("token ids are not supported here, because special tokens may be among them; send text")
        return value

    def to_turn_request(self) -> TurnRequest:
        """See `TextRequest.to_turn_request`."""
        return replace(super().to_turn_request(), text=self.prompt if isinstance(self.prompt, str) else self.prompt[0])

    def _sampling(self) -> SamplingParams:
        sampling = super()._sampling()
        max_new_tokens = sampling.max_new_tokens or _MAX_TOKENS
        return replace(sampling, max_new_tokens=max_new_tokens, logprobs=self.logprobs is not None)


class CompletionWriter:
    """Writes the answer to one `CompletionRequest`: text as the model wrote it."""

    def __init__(self, request: CompletionRequest, head: Head) -> None:
        self._request = request
        self._head = head
        self._sent = ""
        self._logprobs: list[TokenLogprob] = []
        self._sent_logprobs = self._offset = 0

    def whole(self, end: TurnEnd) -> dict[str, Any]:
        """See `Writer`."""
        self._logprobs = list(end.logprobs)
        body = self._body(end.generation.text, end.generation.finish_reason)
        return {**body, "usage": usage(end)}

    def begin(self) -> Iterator[dict[str, Any]]:
        """See `Writer`. Nothing comes before the text."""
        yield from ()

    def add(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """See `Writer`."""
        self._logprobs += delta.logprobs
        if delta.text:
            self._sent += delta.text
            yield self._chunk(delta.text)

    def end(self, end: TurnEnd) -> Iterator[dict[str, Any]]:
        """See `Writer`. The rest of the text with the finish reason, and usage if requested."""
        self._logprobs = list(end.logprobs)
        generation = end.generation
        yield self._chunk(generation.text[len(self._sent) :], generation.finish_reason)
        if self._request.include_usage:
            yield {**self._chunk(""), "choices": [], "usage": usage(end)}

    def _chunk(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        body = self._body(text, finish_reason)
        return {**body, "usage": None} if self._request.include_usage else body

    def _body(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        """Text with the log-probabilities of the tokens since the last chunk."""
        unsent, self._sent_logprobs = self._logprobs[self._sent_logprobs :], len(self._logprobs)
        choice = {"index": 0, "text": text, "logprobs": self._scores(unsent), "finish_reason": finish_reason}
        return {**self._head.body("cmpl", "text_completion"), "choices": [choice]}

    def _scores(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self._request.logprobs is None:
            return None
        offsets = []
        for score in logprobs:
            offsets.append(self._offset)
            self._offset += len(score.token)
        return {
            "tokens": [score.token for score in logprobs],
            "token_logprobs": [score.logprob for score in logprobs],
            "top_logprobs": [{} for _ in logprobs],
            "text_offset": offsets,
        }


COMPLETIONS = Api("text_completion", CompletionRequest, CompletionWriter)
