"""Contract draft: a first data contract and first tools for a data set that replaces the one before.

The draft is derived from the rows and has to be edited, because only a person knows the owner, the license
and the meaning of the labels.
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
# Drafted from {rows} rows by `graft data add --replace`. Read and correct it: the owner of the data, its
# license, and the rules that a row must satisfy. A broken `error` rule stops the run.
owner: "unknown: name the person or team that is responsible for this data"
license: "unknown: name the license of the data, as an SPDX id that params.yaml (section admission) lists"
source: "unknown: name the source of {file}"
updated: {updated}
cadence_days: {cadence_days}   # data older than this break the rule freshness
language: "{language}"
labels:   # request kind -> expected behavior: answer, tool or refusal
{labels}
refusal_phrases: {phrases}   # in every refusal, and nowhere else
rules:
  readable: {{severity: error}}            # UTF-8, JSON, the row's schema, a file that is not empty
  role_order: {{severity: error}}          # system? user, assistant (tool assistant)? user …
  content: {{severity: error}}             # no empty turn
  last_turn: {{severity: error}}           # the last turn is the assistant's
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
"""The number of rows of a label below which it can hardly be learned, let alone evaluated."""


def draft_contract(rows: Sequence[ChatRow], n_tokens: Sequence[int], language: str, file: str, today: date) -> str:
    """The text of `data/contract.yaml` for a data set.

    The drafted rules allow lengths from half the shortest to twice the longest row, and half the rows.

    Args:
        rows: the rows of the data set.
        n_tokens: token counts of rows, at least one, with the shortest and the longest among them.
        language: the code of the customers' language.
        file: the name of the file that the rows come from.
        today: the date on which the data count as updated.
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
    """The expected behavior of each label, which is that of most of its rows, sorted by label."""
    votes: dict[str, Counter[Behavior]] = {}
    for row in rows:
        votes.setdefault(row.label, Counter())[behavior_of(row)] += 1
    return {label: votes[label].most_common(1)[0][0] for label in sorted(votes)}


def behavior_of(row: ChatRow) -> Behavior:
    """The behavior in one row: a tool call anywhere, a refusal at its end, or else an answer."""
    if any(message.tool_calls for message in row.messages):
        return "tool"
    return "refusal" if row.messages and is_refusal(row.messages[-1].content, REFUSAL_PHRASES) else "answer"


def draft_tools(rows: Sequence[ChatRow], declared: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Tool schemas in OpenAI's format: those that the file declares, and one for every other tool that is called.

    A tool that is known only from its calls takes all arguments of its calls, and requires those that every call has.
    """
    calls: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for message in row.messages:
            for call in message.tool_calls:
                calls.setdefault(call.name, []).append(call.arguments)
    drafted = [_tool(name, arguments) for name, arguments in sorted(calls.items()) if name not in declared]
    return [*declared.values(), *drafted]


def _tool(name: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = sorted({argument for arguments in calls for argument in arguments})
    parameters = {
        "type": "object",
        "properties": {argument: {} for argument in names},
        "required": [argument for argument in names if all(argument in arguments for arguments in calls)],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}
