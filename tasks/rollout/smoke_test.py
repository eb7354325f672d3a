"""Smoke test: a few real requests to a live endpoint, to check that a package answers there in a valid format.

It tests the deployment and not the quality of the answers, which was evaluated before.
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
    """Prompts by name of the check: a tool question and a plain question where there are such, and a stream.

    Raises:
        GraftError: no example's prompt is plain text.
    """
    plain = [e for e in examples if all(m.role != "tool" and not m.tool_calls for m in e.prompt)]
    if not plain:
        raise GraftError("smoke test: no eval example has a prompt of plain text, so there is no request to send")
    by_behavior = {labels.get(example.label, "answer"): example.prompt for example in reversed(plain)}
    chosen = {f"{kind} question": by_behavior[kind] for kind in ("tool", "answer") if kind in by_behavior}
    return {**chosen, "streamed answer": plain[0].prompt}


def smoke(
    base_url: str, key: str, model: str, prompts: Mapping[str, Sequence[Message]], timeout_s: float
) -> dict[str, str]:
    """Send each prompt to `model` over HTTP; return the text of each answer, by name of the check.

    Args:
        base_url: base URL of the OpenAI API, which ends in `/v1`.
        key: an API key; any text if the endpoint requires none.
        model: the package's digest.
        prompts: result of `choose`; a prompt with "stream" in its name is streamed.
        timeout_s: timeout of each request, in seconds.

    Raises:
        GraftError: an answer is missing, malformed, empty, another model's or from a cache.
    """
    answers = {}
    # A cached answer would not test the engine, and may be another package's.
    headers = {"authorization": f"Bearer {key}", "cache-control": "no-cache"}
    with httpx.Client(base_url=base_url, headers=headers, timeout=timeout_s) as client:
        for name, messages in prompts.items():
            # With logprobs the model's first output is returned as it is and no tool runs, so the test has no effects.
            conversation = [{"role": m.role, "content": m.content} for m in messages]
            body = {"model": model, "messages": conversation, "logprobs": True}
            send: Callable[[httpx.Client, Json], Json] = _stream if "stream" in name else _complete
            try:
                answers[name] = _text(send(client, body), model)
            except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
                raise GraftError(f"smoke test: {name} at {base_url}: {type(error).__name__}: {error}") from error
    return answers


def _complete(client: httpx.Client, body: Json) -> Json:
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
    """The same from the chunks of a stream."""
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", "/chat/completions", json=streamed) as response:
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
    """The text of an answer, after the checks that streamed and complete answers share."""
    cache = answer["cache"]
    _require(cache == "off", f"the cache was not bypassed ({_CACHE}: {cache}), so the answer may be another package's")
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
