"""Facts about the files on disk that no code states: content, writer, and the consequence of deleting one.

`docs/generators/files_and_state.py` fails when a path of the source has no entry here, or an entry no path.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputFact:
    """A file that people write."""

    content: str
    """Its content."""


@dataclass(frozen=True)
class StateFact:
    """A folder or file of the running system, in `.graft/`."""

    content: str
    """Its content."""
    written_by: str
    """The process that writes it."""
    deletion: str
    """Whether it may be deleted, and the consequence."""


# By the path in tasks/core/paths.py.
INPUTS = {
    "params.yaml": InputFact("The settings that change the answer: [params.yaml](params.md)."),
    "data/raw": InputFact("Conversations, as JSON Lines; `graft data add` writes here too."),
    "data/knowledge": InputFact("Articles that retrieval searches, as Markdown."),
    "data/prompts": InputFact("Chat template, system text and tool schemas."),
    "data/contract.yaml": InputFact("The data contract."),
    "data/shop": InputFact("The example shop's seed: customers, items and orders."),
    "data/retrieval/query_expansions.jsonl": InputFact("Questions that customers ask of a passage."),
    "data/retrieval/eval_queries.jsonl": InputFact("Questions with their right passage, for evaluation."),
    "data/evaluation/expected_outcomes.jsonl": InputFact("Expected outcomes of turns, for evaluation."),
    "data/redteam/attacks.jsonl": InputFact("Attacks, for evaluation."),
    "data/prompt_injection_sources.yaml": InputFact("Published datasets of the prompt injection classifier."),
}

# By the DVC output in dvc.yaml, and the one file in build/ that the release flow writes.
BUILT = {
    "build/base": "Base model and tokenizer.",
    "build/baseline": "The base model as the engine serves it, which the candidate is compared with.",
    "build/contract": "Report of the contract check, and the rows that passed it.",
    "build/examples": "The splits: `train.parquet`, `eval.parquet` and `test.parquet`.",
    "build/embedding": "Retrieval model and its tokenizer.",
    "build/index": "Passages, query expansions and their vectors.",
    "build/evaluate_retrieval": "Scores of the search.",
    "build/grounding": "The splits with the passages of each turn.",
    "build/adapter": "LoRA adapter, losses and metrics.",
    "build/package": "The model package: [manifest](manifest.md), adapter, served weights, prompt, probes, card.",
    "build/evaluation": "Answers and scores of base, incumbent and candidate.",
    "build/prompt_injection": "Prompt injection classifier and its scores.",
    "build/evaluate_assistant": "Turns and rates of the end-to-end evaluation.",
    "build/incumbent.json": "The package in production that the candidate is compared with.",
}

_STOPPED = "Only after `graft down`"
# By the first part of the path below .graft/.
STATE = {
    "registry": StateFact(
        "Released packages, their bases, evaluations, channels, history and audit log; local copies where the "
        "registry is in S3.",
        "release flow, `graft promote`, `graft rollback`",
        "No: the releases are here and nowhere else. Copies from S3 are fetched again.",
    ),
    "embeddings": StateFact(
        "Served retrieval models, by digest.", "deployment", "No: served packages name them by digest."
    ),
    "indexes": StateFact("Served indexes, by digest.", "release flow", "No: served packages name them by digest."),
    "tables": StateFact(
        "LanceDB tables of the indexes.", "assistant", f"{_STOPPED}; made again from the index at the next start."
    ),
    "classifiers": StateFact(
        "Served prompt injection classifiers, by digest.", "deployment", "No: the assistant's settings name one."
    ),
    "telemetry": StateFact(
        "[Telemetry rows](telemetry-row.md), a folder per day.",
        "assistant",
        "Past days, yes: drift detection then knows nothing of these answers.",
    ),
    "secrets": StateFact(
        "`prefect`: password of the user `graft` of Prefect; `ray`: token of the local Ray, for which its dashboard "
        "asks. Only their owner can read them.",
        "`graft up`",
        f"{_STOPPED}; the next `graft up` makes new ones.",
    ),
    "visitors.key": StateFact(
        "Key of the pseudonymous user ids in telemetry.", "assistant", "Yes: all customers get new pseudonyms."
    ),
    "reports": StateFact(
        "`reference/`: the drift reference of each promoted package; `drift/` and `redteam/`: reports.",
        "release flow, monitor flow, `graft redteam`",
        "Reports, yes; the reference in use, no: without it there is nothing to compare production with.",
    ),
    "incidents": StateFact(
        "Incidents of rollouts, opened and closed.", "release flow, `graft incident close`", "No: a record of breaches."
    ),
    "checkpoints": StateFact(
        "Sealed checkpoints of a training that has not ended.",
        "stage `train`",
        "While no training runs: a killed training then begins anew.",
    ),
    "shop": StateFact(
        "The example shop's database.",
        "tools of the assistant",
        f"{_STOPPED}: the next start makes it from `data/shop`.",
    ),
    "state": StateFact(
        "Hashes of the inputs of the last run.",
        "release flow, watch flow",
        "Yes: the next check takes the present inputs as those of the last run.",
    ),
    "replaced": StateFact(
        "Data that `graft data add --replace` replaced.",
        "`graft data add --replace`",
        "Yes, if the old data is not needed again.",
    ),
    "logs": StateFact("Logs of the background processes.", "the processes", f"{_STOPPED}."),
    "run": StateFact("Pids, locks, and a copy of `dvc.lock`.", "the stack and the flows", f"{_STOPPED}."),
    "prefect": StateFact(
        "Prefect's database and settings.", "Prefect", f"{_STOPPED}: the history of the runs is lost."
    ),
    "ray": StateFact("Ray's sessions and their logs.", "Ray", f"{_STOPPED}."),
    "dvc": StateFact(
        "DVC's configuration and site cache, in place of those in the home folder.", "DVC", f"{_STOPPED}."
    ),
    "garak": StateFact("garak's environment and state.", "`graft redteam`", "Yes: the next scan installs garak again."),
    "cache": StateFact("Caches of pip, matplotlib, the model hub and others.", "libraries", f"{_STOPPED}."),
}
