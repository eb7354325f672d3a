"""Probes: what a package answered when it was packaged, and whether an engine that was opened later agrees.

*Parity*: the same prompt hashes and prompt ids, and answers that begin alike. *Effect*: answers that
do not all begin as the base's do. They catch what hashes of files cannot: an engine that leaves the
adapter out, another template, other arithmetic. How good the answers are is the gate's question.
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
TOKENS = 8
"""Of each answer, so that a probe costs a second or two; nothing depends on where answers end."""
AGREEMENT = 0.5
"""The least mean share of an answer's opening that must be as recorded.

On the machine that packaged it all of it is. On another one sums round differently, and where two
tokens were nearly as likely an answer takes another turn and does not come back: with one such turn
anywhere in an opening half of it still agrees on average, and another model's answers part at once.
"""


class ProbeRow(Record):
    """One prompt, and how the package and its base alone began to answer it, greedily."""

    messages: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    base_ids: tuple[int, ...]


class Probes(Record):
    """What a package keeps in `parity.json`; `prompt` are the hashes of `Prompt.identity`."""

    prompt: dict[str, str]
    rows: tuple[ProbeRow, ...]


def record_probes(model: Model, base: Model, conversations: Sequence[Sequence[Message]]) -> Probes:
    """The probes of a package: the first `ROWS` of `conversations` that it does not all answer as its base does.

    Where there are none the last are kept, and no deploy will pass the effect probe.
    """
    rows: list[ProbeRow] = []
    for start in range(0, len(conversations), ROWS):
        asked = conversations[start : start + ROWS]
        prompts = [model.request(messages).prompt_ids for messages in asked]
        answers = zip(asked, prompts, openings(model, asked), openings(base, asked), strict=True)
        rows = [ProbeRow(messages=tuple(m), prompt_ids=p, answer_ids=a, base_ids=b) for m, p, a, b in answers]
        if any(row.answer_ids != row.base_ids for row in rows):
            break
    return Probes(prompt=model.prompt.identity, rows=tuple(rows))


def check_probes(model: Model, package: Path) -> None:
    """Ask an opened package what it was asked when it was packaged.

    Raises:
        GraftError: the parity probe or the effect probe fails; the message says how.
    """
    path = package / PARITY
    try:
        probes = Probes.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise GraftError(f"{path}: no probes that this version can read: {error}") from error
    check_prompts(model, probes)
    check_answers(openings(model, [row.messages for row in probes.rows]), probes.rows)


def openings(model: Model, conversations: Sequence[Sequence[Message]]) -> list[tuple[int, ...]]:
    """The first `TOKENS` token ids of each answer, `ROWS` of them decoded together."""
    requests = [_opening(model.request(messages)) for messages in conversations]
    found = dict(generate(model.engine, requests, ROWS))
    return [found[place].token_ids for place in range(len(requests))]


def _opening(request: GenerationRequest) -> GenerationRequest:
    """`request`, ended after `TOKENS` tokens."""
    return replace(request, sampling=replace(request.sampling, max_new_tokens=TOKENS))


def check_prompts(model: Model, probes: Probes) -> None:
    """Parity of what is asked, which must be exact.

    Raises:
        GraftError: a hash or a prompt's token ids are others.
    """
    if model.prompt.identity != probes.prompt:
        other = sorted(part for part, value in model.prompt.identity.items() if probes.prompt.get(part) != value)
        raise GraftError(f"parity probe: the {' and the '.join(other)} differs from the one it was packaged with")
    for number, row in enumerate(probes.rows, 1):
        found = model.request(row.messages).prompt_ids
        if found != row.prompt_ids:
            where = f"token {common_prefix_length(found, row.prompt_ids) + 1} of prompt {number}"
            raise GraftError(f"parity probe: {where} differs from the one it was packaged with: another template")


def check_answers(answers: Sequence[Sequence[int]], rows: Sequence[ProbeRow]) -> None:
    """Effect, then parity of what is answered.

    Raises:
        GraftError: all answers are the base's, or too little of them is as recorded.
    """
    if all(tuple(answer) == row.base_ids for answer, row in zip(answers, rows, strict=True)):
        raise GraftError(
            f"effect probe: {len(rows)} of {len(rows)} answers begin as the base's alone: the adapter has no effect"
        )
    shares = [
        common_prefix_length(answer, row.answer_ids) / max(len(answer), len(row.answer_ids), 1)
        for answer, row in zip(answers, rows, strict=True)
    ]
    agreement = sum(shares) / len(shares)
    if agreement < AGREEMENT:
        raise GraftError(
            f"parity probe: of {len(rows)} answers' first {TOKENS} tokens {agreement:.0%} are as when it was "
            f"packaged, and at least {AGREEMENT:.0%} must be: another model, or other arithmetic"
        )
