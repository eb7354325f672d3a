"""The engine alone, without HTTP: the baseline for the service's overhead.

It gets the same closed loop as `benchmarks/serving/closed_loop_clients.py`.

It reads one job per line from standard input and writes its answers as one line to standard output, until the
input ends.

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
    """Answer every text once and greedily, in a closed loop.

    Args:
        model: the package's model.
        texts: users' messages.
        concurrent: number of concurrent requests.
        max_tokens: maximum tokens of an answer.
    """
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
    # Standard output is for answers alone, so the output of libraries goes to standard error.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model = open_package(
        Path(package), Path(base), Resources(threads=int(threads), cache_gb=int(cache_gb), in_subprocess=False)
    )
    for line in sys.stdin:
        answers = drive(model, **json.loads(line))
        print(json.dumps([asdict(answer) for answer in answers]), file=output, flush=True)


if __name__ == "__main__":
    main()
