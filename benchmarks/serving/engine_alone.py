"""A package's engine without HTTP: what the service's cost is taken from.

It runs in the closed loop of `benchmarks/serving/closed_loop_clients.py`.

One job a line on standard input, its answers as one line on standard output, until the input ends.

    python -m benchmarks.serving.engine_alone PACKAGE BASE THREADS CACHE_GB
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from benchmarks.serving.closed_loop_clients import Answer
from tasks.core.records import Message
from tasks.engine.loading import Model, open_package
from tasks.engine.protocol import SamplingParams
from tasks.engine.resources import Resources


def drive(model: Model, texts: Sequence[str], concurrent: int, max_tokens: int) -> list[Answer]:
    """Ask every text once and greedily, `concurrent` at a time: the next when one is answered."""
    waiting = iter(enumerate(texts))
    open_answers: dict[int, Answer] = {}
    answered: list[Answer] = []
    while True:
        for key, text in islice(waiting, concurrent - len(open_answers)):
            open_answers[key] = answer = Answer(time.perf_counter())
            request = model.request([Message(role="user", content=text)], sampling=SamplingParams(max_tokens))
            answer.prompt_tokens = len(request.prompt_ids)
            model.engine.submit(key, request)
        if not open_answers:
            return answered
        for chunk in model.engine.step():
            answer = open_answers[chunk.key]
            answer.tokens += len(chunk.token_ids)
            answer.text += chunk.text
            if chunk.text:
                answer.chunks.append(time.perf_counter())
            if chunk.finish_reason:
                answer.ended = bool(answer.chunks)
                answered.append(open_answers.pop(chunk.key))


def main() -> None:
    package, base, threads, cache_gb = sys.argv[1:]
    # What libraries print is not an answer.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model = open_package(
        Path(package), Path(base), Resources(threads=int(threads), cache_gb=int(cache_gb), in_subprocess=False)
    )
    for line in sys.stdin:
        answers = drive(model, **json.loads(line))
        print(json.dumps([asdict(answer) for answer in answers]), file=told, flush=True)


if __name__ == "__main__":
    main()
