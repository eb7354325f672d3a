"""Tests of the smoke test against a real HTTP server with set answers: which it must accept and which reject."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tasks.core.errors import GraftError
from tasks.core.records import Example, Message
from tasks.rollout.smoke_test import choose, smoke

MODEL = "ab" * 32
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def whole(message: dict[str, Any], **changes: Any) -> str:
    answer = {"object": "chat.completion", "model": MODEL, "usage": USAGE}
    return json.dumps({**answer, "choices": [{"message": message, "finish_reason": "stop"}], **changes})


def stream(*deltas: dict[str, Any], model: str = MODEL, done: bool = True) -> str:
    chunks: list[dict[str, Any]] = [
        {"model": model, "choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"
    chunks.append({"model": model, "choices": [], "usage": USAGE})
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, *(["data: [DONE]\n\n"] if done else [])])


class Endpoint(ThreadingHTTPServer):
    """An endpoint that answers every request with `answer`, and the header of `cache`; it keeps the request bodies."""

    def __init__(self) -> None:
        self.answer, self.status, self.cache = "", 200, "off"
        self.bodies: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(self.server.status)
        self.send_header("x-graft-cache", self.server.cache)
        self.end_headers()
        self.wfile.write(self.server.answer.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(endpoint: Endpoint, answer: str, name: str = "answer question", status: int = 200) -> dict[str, str]:
    endpoint.answer, endpoint.status = answer, status
    return smoke(endpoint.url, "none", MODEL, {name: [Message(role="user", content="hello")]}, 10.0)


def test_whole_tool_and_streamed_answers_pass(endpoint: Endpoint) -> None:
    assert ask(endpoint, whole({"content": "hi"})) == {"answer question": "hi"}
    call = {"function": {"name": "find_order", "arguments": "{}"}}
    assert ask(endpoint, whole({"content": None, "tool_calls": [call]})) == {"answer question": "calls find_order"}
    streamed = stream({"role": "assistant"}, {"content": "h"}, {"content": "i"})
    assert ask(endpoint, streamed, "streamed answer") == {"streamed answer": "hi"}
    assert [body["model"] for body in endpoint.bodies] == [MODEL] * 3
    assert endpoint.bodies[-1]["stream"] is True


@pytest.mark.parametrize(
    ("answer", "name", "problem"),
    [
        (whole({"content": " "}), "a", "the answer is empty"),
        (whole({"content": "hi"}, model="other"), "a", "answered as"),
        (whole({"content": "hi"}, usage={**USAGE, "completion_tokens": 0}), "a", "no tokens"),
        (whole({"content": "hi"}, object="list"), "a", "not a completion"),
        (whole({"content": "hi"}, choices=[]), "a", "IndexError"),
        ("<html>", "a", "JSONDecodeError"),
        (stream({"content": "hi"}, done=False), "stream", "does not end with"),
        (stream({"content": "hi"}, model="other"), "stream", "answered as"),
        (stream({"content": ""}), "stream", "the answer is empty"),
    ],
)
def test_a_wrong_answer_is_named(endpoint: Endpoint, answer: str, name: str, problem: str) -> None:
    with pytest.raises(GraftError, match=rf"smoke test: {name} at .*{problem}"):
        ask(endpoint, answer, name)


@pytest.mark.parametrize("cache", ["hit", "semantic", "miss"])
@pytest.mark.parametrize(("answer", "name"), [(whole({"content": "hi"}), "a"), (stream({"content": "hi"}), "stream")])
def test_an_endpoint_that_heeds_its_cache_all_the_same_is_named(
    endpoint: Endpoint, answer: str, name: str, cache: str
) -> None:
    endpoint.cache = cache
    with pytest.raises(GraftError, match=f"smoke test: {name} at .*cache was not bypassed .*: {cache}"):
        ask(endpoint, answer, name)


def test_an_error_status_and_a_dead_endpoint_are_named(endpoint: Endpoint) -> None:
    with pytest.raises(GraftError, match="status 503: busy"):
        ask(endpoint, "busy", status=503)
    with pytest.raises(GraftError, match="ConnectError"):
        smoke("http://127.0.0.1:9/v1", "none", MODEL, {"a": [Message(role="user", content="x")]}, 2.0)


def example(label: str, *messages: Message) -> Example:
    answer = Message(role="assistant", content="ok")
    return Example(id=label, label=label, group="", split="eval", source="", messages=(*messages, answer))


def test_prompts_are_chosen_by_what_they_try() -> None:
    order, care = Message(role="user", content="where is it"), Message(role="user", content="is it dry")
    result = Message(role="tool", content="{}")
    examples = [example("care", care), example("order", order), example("order", order, result)]
    chosen = choose(examples, {"order": "tool", "care": "answer"})
    assert chosen == {"tool question": (order,), "answer question": (care,), "streamed answer": (care,)}
    assert set(choose(examples[:1], {"care": "answer"})) == {"answer question", "streamed answer"}
    with pytest.raises(GraftError, match="no request to send"):
        choose(examples[2:], {})
