"""Settings keys that version 0.2 renamed: for error messages, and for the names on disk, which did not change.

A model package's digest covers the settings in its manifest, so they keep the names of version 0.1 there.
docs/reference/renames-0.2.md has the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED_KEYS = {
    # params.yaml
    "recall": "evaluate_retrieval",
    "injection": "prompt_injection",
    "assistant": "evaluate_assistant",
    "guard": "canary_analysis",
    "safety": "guardrails",
    "contract.near_duplicate": "contract.near_duplicate_threshold",
    "contract.offending_rows": "contract.shown_violations",
    "prepare.eval_share": "prepare.eval_fraction",
    "prepare.test_share": "prepare.test_fraction",
    "base.licence": "base.license",
    "train.quantisation": "train.quantization",
    "train.window": "train.max_length",
    "train.warmup_share": "train.warmup_ratio",
    "train.rank": "train.lora_rank",
    "train.alpha": "train.lora_alpha",
    "train.dropout": "train.lora_dropout",
    "train.targets": "train.target_modules",
    "train.first_layer": "train.first_adapted_layer",
    "train.decision_weight": "train.decision_token_weight",
    "train.checkpoint_steps": "train.save_steps",
    "train.patience": "train.early_stopping_patience",
    "train.workers": "train.num_workers",
    "tools.rounds": "tools.max_tool_rounds",
    "tools.unfinished": "tools.unfinished_message",
    "tools.now": "shop.now",
    "tools.refund_limit_pence": "shop.refund_limit_pence",
    "admission.licences": "admission.licenses",
    "evaluate.at_once": "evaluate.batch_size",
    "evaluate_assistant.at_once": "evaluate_assistant.concurrency",
    "gate.max_loss": "gate.non_inferiority_margin",
    "gate.slices.label.max_loss": "gate.slices.label.non_inferiority_margin",
    "gate.slices.language.max_loss": "gate.slices.language.non_inferiority_margin",
    "gate.slices.length.max_loss": "gate.slices.length.non_inferiority_margin",
    "canary_analysis.patience_s": "canary_analysis.timeout_s",
    "drift.false_alarm": "drift.false_positive_rate",
    "embedding.window": "embedding.max_length",
    "embedding.licence": "embedding.license",
    "prompt_injection.leave_out": "prompt_injection.exclude",
    "prompt_injection.alike": "prompt_injection.near_duplicate_threshold",
    "prompt_injection.pieces": "prompt_injection.max_features",
    "prompt_injection.min_texts": "prompt_injection.min_df",
    "prompt_injection.inverse_penalty": "prompt_injection.C",
    "prompt_injection.max_false_positives": "prompt_injection.max_false_positive_rate",
    "retrieval.rank_offset": "retrieval.rrf_k",
    "retrieval.words_weight": "retrieval.bm25_weight",
    "retrieval.asked_nearest": "retrieval.nearest_expansions",
    "retrieval.floor": "retrieval.min_similarity",
    "retrieval.asked_floor": "retrieval.min_expansion_similarity",
    "grounding.passages": "grounding.shown_passages",
    "grounding.turns": "grounding.query_turns",
    "grounding.known": "grounding.grounding_passages",
    # deployments/serve.yaml
    "engine.at_once": "engine.max_num_seqs",
    "engine.health_every_s": "engine.health_check_period_s",
    "embedding.at_once": "embedding.concurrency",
    "assistant.health_every_s": "assistant.health_check_period_s",
    "fallback.words": "fallback.static_message",
    "fallback.retries.share": "fallback.retries.ratio",
    "fallback.breaker.failure_share": "fallback.breaker.failure_ratio",
    "shadow.share": "shadow.fraction",
    "shadow.at_once": "shadow.concurrency",
    "shadow.busy": "shadow.max_open_requests",
    "shadow.patience_s": "shadow.timeout_s",
    # deployments/redteam.yaml
    "leave_out": "exclude",
    # data/contract.yaml
    "licence": "license",
    "rules.behaviour": "rules.behavior",
}
"""Old key to new key, each with its section; a key of a renamed section is listed under the section's new name."""

MOVED_KEYS = {"prompt_injection.sources": "data/prompt_injection_sources.yaml"}
"""Keys of params.yaml whose values are in a file of their own now."""


REMOVED_KEYS = {"one_box.ray.client_port": "the Ray client server is not started anymore"}
"""Keys without a successor, and why they went."""


def old_names(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a settings section under the names of version 0.1, in the same order."""
    names = {new: old.rpartition(".")[2] for old, new in RENAMED_KEYS.items()}
    return {names.get(f"{section}.{name}", name): value for name, value in values.items()}


def new_names(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `old_names`."""
    names = {old: new.rpartition(".")[2] for old, new in RENAMED_KEYS.items()}
    return {names.get(f"{section}.{name}", name): value for name, value in values.items()}
