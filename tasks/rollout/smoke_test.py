"""A few real requests to a live endpoint: does this package answer there, in the promised shape?

It checks the road, not the answers: how good they are was measured before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from tasks.core.errors import GraftError
from tasks.core.records import Example, Message
from tasks.data.contract_spec import Behavior

Json = dict[str, Any]
_CACHE = "x-graft-cache"


def choose(examples: Sequence[Example], labels: Mapping[str, Behavior]) -> dict[str, tuple[Message, ...]]:
    """Prompts to ask, by what they try: a tool question and a plain one where there are such, and a stream.

    Raises:
        GraftError: no example's prompt is plain text.
    """
    plain = [e for e in examples if all(m.role != "tool" and not m.tool_calls for m in e.prompt)]
    if not plain:
        raise GraftError("smoke: no eval example begins with plain text, so there is nothing to ask")
    by_behaviour = {labels.get(example.label, "answer"): example.prompt for example in reversed(plain)}
    chosen = {f"{kind} question": by_behaviour[kind] for kind in ("tool", "answer") if kind in by_behaviour}
    return {**chosen, "streamed answer": plain[0].prompt}


def smoke(
    base_url: str, key: str, model: str, prompts: Mapping[str, Sequence[Message]], timeout_s: float
) -> dict[str, str]:
    """Ask each prompt of `model` over HTTP; return what was answered, by what it tried.

    Args:
        base_url: ends in `/v1`.
        key: an API key; any word where none is asked for.
        model: the package's digest.
        prompts: as `choose` gives them; a name with "stream" in it is streamed.

    Raises:
        GraftError: an answer is missing, malformed, empty, another model's or from a cache.
    """
    answers = {}
    # An answer from the assistant's memory would say nothing of the engine, and may be one that another package gave.
    headers = {"authorization": f"Bearer {key}", "cache-control": "no-cache"}
    with httpx.Client(base_url=base_url, headers=headers, timeout=timeout_s) as client:
        for name, messages in prompts.items():
            # With scores the model's first words come as they are: no tool is run, so nothing is changed by trying.
            asked = [{"role": m.role, "content": m.content} for m in messages]
            body = {"model": model, "messages": asked, "logprobs": True}
            ask: Callable[[httpx.Client, Json], Json] = _stream if "stream" in name else _whole
            try:
                answers[name] = _text(ask(client, body), model)
            except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
                raise GraftError(f"smoke: {name} at {base_url}: {type(error).__name__}: {error}") from error
    return answers


def _whole(client: httpx.Client, body: Json) -> Json:
    response = client.post("/chat/completions", json=body)
    _require(response.is_success, f"status {response.status_code}: {response.text[:300]}")
    answer: Json = response.json()
    _require(answer["object"] == "chat.completion", f"not a completion: {answer['object']}")
    choice = answer["choices"][0]
    return {
        "models": {answer["model"]},
        "usage": answer["usage"],
        **choice["message"],
        "end": choice["finish_reason"],
        "cache": response.headers.get(_CACHE, "off"),
    }


def _stream(client: httpx.Client, body: Json) -> Json:
    """The same from the pieces of a stream."""
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", "/chat/completions", json=asked) as response:
        _require(response.is_success, f"status {response.status_code}: {response.read().decode()[:300]}")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    _require(len(events) > 1 and events[-1] == "[DONE]", "the stream does not end with [DONE]")
    chunks: list[Json] = [json.loads(event) for event in events[:-1]]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    return {
        "models": {chunk["model"] for chunk in chunks},
        "usage": chunks[-1]["usage"],
        "content": "".join(choice["delta"].get("content") or "" for choice in choices),
        "tool_calls": [call for choice in choices for call in choice["delta"].get("tool_calls") or ()],
        "end": choices[-1]["finish_reason"],
        "cache": response.headers.get(_CACHE, "off"),
    }


def _text(answer: Json, model: str) -> str:
    """What was answered, after the checks that streamed and whole answers share."""
    cache = answer["cache"]
    _require(cache == "off", f"asked past the cache, which said {cache}: the answer may be another package's")
    _require(answer["models"] == {model}, f"answered as {answer['models']}, not as {model}")
    _require(answer["end"] in ("stop", "length", "tool_calls"), f"ended with {answer['end']}")
    _require(answer["usage"]["completion_tokens"] > 0, "no tokens were counted")
    calls = [call["function"]["name"] for call in answer.get("tool_calls") or () if call["function"].get("name")]
    text = " ".join(filter(None, [answer.get("content"), *(f"calls {name}" for name in calls)])).strip()
    _require(bool(text), "the answer is empty")
    return text


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
