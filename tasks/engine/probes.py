"""Parity and effect probes: answers recorded at packaging, compared with those of an engine opened later.

*Parity*: the same prompt hashes and prompt ids, and answers that begin the same. *Effect*: answers that
do not all begin as the base's do. Probes catch errors that file hashes cannot: an engine that omits the
adapter, another template, different arithmetic. The gate, not the probes, measures the quality of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.records import Message, Record
from tasks.engine.loading import Model
from tasks.engine.prefix_cache import common_prefix_length
from tasks.engine.protocol import GenerationRequest, generate

PARITY = "parity.json"
ROWS = 4
"""Prompts that a package is probed with."""
TOKENS = 8
"""Tokens of each answer, so that a probe costs a second or two; nothing depends on where answers end."""
AGREEMENT = 0.5
"""The minimum mean fraction of an answer's first tokens that must equal the recorded ones.

On the machine that packaged it all of them do. On another machine sums round differently, and where two
tokens are nearly as likely an answer diverges and does not return: with one such divergence at a random
position half of the tokens still agree on average, while another model's answers diverge at the first token.
"""


class ProbeRow(Record):
    """One prompt with the first tokens of two greedy answers: the package's and its base's."""

    messages: tuple[Message, ...]
    """The conversation up to the answer."""
    prompt_ids: tuple[int, ...]
    """Token ids of the rendered prompt."""
    answer_ids: tuple[int, ...]
    """The first `TOKENS` token ids of the package's answer."""
    base_ids: tuple[int, ...]
    """The first `TOKENS` token ids of the answer of the base without adapter."""


class Probes(Record):
    """The content of a package's `parity.json`."""

    prompt: dict[str, str]
    """The hashes of `Prompt.identity`."""
    rows: tuple[ProbeRow, ...]
    """The probes, at most `ROWS`."""


def record_probes(model: Model, base: Model, conversations: Sequence[Sequence[Message]]) -> Probes:
    """The probes of a package: the first `ROWS` of `conversations` that it does not all answer as its base does.

    If it answers all as its base does, the last `ROWS` are kept, and no deploy will pass the effect probe.
    """
    rows: list[ProbeRow] = []
    for start in range(0, len(conversations), ROWS):
        batch = conversations[start : start + ROWS]
        prompts = [model.request(messages).prompt_ids for messages in batch]
        answers = zip(batch, prompts, openings(model, batch), openings(base, batch), strict=True)
        rows = [ProbeRow(messages=tuple(m), prompt_ids=p, answer_ids=a, base_ids=b) for m, p, a, b in answers]
        if any(row.answer_ids != row.base_ids for row in rows):
            break
    return Probes(prompt=model.prompt.identity, rows=tuple(rows))


def check_probes(model: Model, package: Path) -> None:
    """Repeat the probes of a package on its opened engine.

    Raises:
        GraftError: the parity probe or the effect probe fails; the message says how.
    """
    path = package / PARITY
    try:
        probes = Probes.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise GraftError(f"{path}: cannot be read as probes by this version: {error}; package it again") from error
    check_prompts(model, probes)
    check_answers(openings(model, [row.messages for row in probes.rows]), probes.rows)


def openings(model: Model, conversations: Sequence[Sequence[Message]]) -> list[tuple[int, ...]]:
    """The first `TOKENS` token ids of each answer, `ROWS` of them decoded together."""
    requests = [_opening(model.request(messages)) for messages in conversations]
    answers = dict(generate(model.engine, requests, ROWS))
    return [answers[index].token_ids for index in range(len(requests))]


def _opening(request: GenerationRequest) -> GenerationRequest:
    """`request`, ended after `TOKENS` tokens."""
    return replace(request, sampling=replace(request.sampling, max_new_tokens=TOKENS))


def check_prompts(model: Model, probes: Probes) -> None:
    """Parity of the prompts, which must be exact.

    Raises:
        GraftError: a hash or a prompt's token ids differ.
    """
    if model.prompt.identity != probes.prompt:
        other = sorted(part for part, value in model.prompt.identity.items() if probes.prompt.get(part) != value)
        raise GraftError(f"parity probe: the {' and the '.join(other)} differs from the one it was packaged with")
    for number, row in enumerate(probes.rows, 1):
        prompt_ids = model.request(row.messages).prompt_ids
        if prompt_ids != row.prompt_ids:
            where = f"token {common_prefix_length(prompt_ids, row.prompt_ids) + 1} of prompt {number}"
            raise GraftError(f"parity probe: {where} differs from the one it was packaged with: another template")


def check_answers(answers: Sequence[Sequence[int]], rows: Sequence[ProbeRow]) -> None:
    """The effect probe, then parity of the answers.

    Raises:
        GraftError: all answers equal the base's, or too few of their tokens equal the recorded ones.
    """
    if all(tuple(answer) == row.base_ids for answer, row in zip(answers, rows, strict=True)):
        raise GraftError(
            f"effect probe: {len(rows)} of {len(rows)} answers begin as the base's do: the adapter has no effect"
        )
    agreements = [
        common_prefix_length(answer, row.answer_ids) / max(len(answer), len(row.answer_ids), 1)
        for answer, row in zip(answers, rows, strict=True)
    ]
    agreement = sum(agreements) / len(agreements)
    if agreement < AGREEMENT:
        raise GraftError(
            f"parity probe: {agreement:.0%} of {len(rows)} answers' first {TOKENS} tokens equal those recorded at "
            f"packaging, and at least {AGREEMENT:.0%} must: another model, or different arithmetic"
        )
