"""A first contract, system text and tools for a data set that replaces the one before.

All of it is read off the rows and meant to be edited: a person knows the owner, the license and
what the labels mean; the rows only show what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import yaml

from tasks.core.records import ChatRow
from tasks.data.contract_spec import Behavior
from tasks.text.refusals import is_refusal

CADENCE_DAYS = 180
REFUSAL_PHRASES = ("i can't", "i cannot", "i'm not able to")

_CONTRACT = """\
# Drafted from {rows} rows by `graft data add --replace`. Read it and make it yours: who owns the
# data, under which license, and what a row must be like. A broken `error` rule stops the run.
owner: "unknown: say who answers for this data"
license: "unknown: say under which license you have it, as an SPDX id that params.yaml (admission.licenses) lists"
source: "unknown: say where {file} is from"
updated: {updated}
cadence_days: {cadence_days}   # older than this: freshness is broken
language: "{language}"
labels:   # request kind -> how it is met: answer, tool or refusal
{labels}
refusal_phrases: {phrases}   # in every refusal, and nowhere else
rules:
  readable: {{severity: error}}            # UTF-8, JSON, the row's schema, a file that is not empty
  role_order: {{severity: error}}          # system? user, assistant (tool assistant)? user …
  content: {{severity: error}}             # no empty turn
  last_turn: {{severity: error}}           # the assistant has the last word
  labels: {{severity: error}}              # only those above
  behavior: {{severity: warn}}             # a tool call in rows of a tool label, and nowhere else
  tools: {{severity: error}}               # only tools of data/prompts/tools.json, with their arguments
  refusals: {{severity: warn}}             # a refusal phrase in refusals, and nowhere else
  language: {{severity: warn, max_share: 0.05}}             # rows that seem to be in another language
  tokens: {{severity: error, min: {min_tokens}, max: {max_tokens}}}   # found: {found_min} to {found_max}
  volume: {{severity: error, min: {min_rows}, max: {max_rows}}}   # found: {rows} rows
  freshness: {{severity: warn}}
  exact_duplicates: {{severity: warn, max_share: 0.0}}      # `prepare` drops them
  near_duplicates: {{severity: warn, max_share: 0.03}}      # `prepare` keeps them in one split
  personal_data: {{severity: error}}       # email addresses, telephone, card and bank account numbers
  balance: {{severity: warn, min_rows: {label_rows}, max_share: {label_share}}}
"""

LABEL_ROWS = 20
"""Rows below which a label can hardly be learned, let alone evaluated."""


def draft_contract(rows: Sequence[ChatRow], n_tokens: Sequence[int], language: str, file: str, today: date) -> str:
    """`data/contract.yaml` for rows of which at least one has tokens.

    Lengths may stray to half and twice of what was found, and half of the rows may go missing,
    before the contract objects.
    """
    counts = Counter(row.label for row in rows)
    labels = yaml.safe_dump(behaviors(rows), allow_unicode=True, default_flow_style=False)
    largest = max(counts.values()) / len(rows)
    return _CONTRACT.format(
        rows=len(rows),
        file=file.replace('"', "'").replace("\\", "/"),
        updated=today.isoformat(),
        cadence_days=CADENCE_DAYS,
        language=language,
        labels="\n".join(f"  {line}" for line in labels.splitlines()),
        phrases=yaml.safe_dump(list(REFUSAL_PHRASES), default_flow_style=True, width=10_000).strip(),
        min_tokens=min(n_tokens) // 2,
        max_tokens=2 * max(n_tokens),
        found_min=min(n_tokens),
        found_max=max(n_tokens),
        min_rows=max(1, len(rows) // 2),
        max_rows=max(100, 100 * len(rows)),
        label_rows=LABEL_ROWS,
        label_share=round(min(1.0, 2 * largest), 2),
    )


def behaviors(rows: Sequence[ChatRow]) -> dict[str, Behavior]:
    """How each label is met, by what most of its rows do, in the labels' order."""
    votes: dict[str, Counter[Behavior]] = {}
    for row in rows:
        votes.setdefault(row.label, Counter())[behavior_of(row)] += 1
    return {label: votes[label].most_common(1)[0][0] for label in sorted(votes)}


def behavior_of(row: ChatRow) -> Behavior:
    """How one row is met: by a tool call anywhere, by a refusal at its end, or else by an answer."""
    if any(message.tool_calls for message in row.messages):
        return "tool"
    return "refusal" if row.messages and is_refusal(row.messages[-1].content, REFUSAL_PHRASES) else "answer"


def draft_tools(rows: Sequence[ChatRow], declared: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """OpenAI tool schemas: those that the file declared, and one for every other tool that is called.

    A tool known from its calls alone takes the arguments seen, and requires those seen in each call.
    """
    calls: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for message in row.messages:
            for call in message.tool_calls:
                calls.setdefault(call.name, []).append(call.arguments)
    drafted = [_tool(name, seen) for name, seen in sorted(calls.items()) if name not in declared]
    return [*declared.values(), *drafted]


def _tool(name: str, seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = sorted({argument for arguments in seen for argument in arguments})
    parameters = {
        "type": "object",
        "properties": {argument: {} for argument in names},
        "required": [argument for argument in names if all(argument in arguments for arguments in seen)],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}
