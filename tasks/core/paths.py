"""Paths of files and folders, relative to the repository root, which is every process's working directory.

`data/` is written by people, `build/` by DVC stages, `.graft/` by the running system.
"""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")

RAW = Path("data/raw")
KNOWLEDGE = Path("data/knowledge")
QUERY_EXPANSIONS = Path("data/retrieval/query_expansions.jsonl")
EVAL_QUERIES = Path("data/retrieval/eval_queries.jsonl")
EXPECTED_OUTCOMES = Path("data/evaluation/expected_outcomes.jsonl")
PROMPTS = Path("data/prompts")
CONTRACT = Path("data/contract.yaml")
SHOP_SEED = Path("data/shop")
REDTEAM = Path("data/redteam/attacks.jsonl")
PROMPT_INJECTION_SOURCES = Path("data/prompt_injection_sources.yaml")

BUILD = Path("build")
BUILT_CONTRACT = BUILD / "contract"
BUILT_EXAMPLES = BUILD / "examples"
BUILT_BASE = BUILD / "base"
BUILT_EMBEDDING = BUILD / "embedding"
BUILT_PROMPT_INJECTION = BUILD / "prompt_injection"
BUILT_INDEX = BUILD / "index"
BUILT_EVALUATE_RETRIEVAL = BUILD / "evaluate_retrieval"
BUILT_GROUNDING = BUILD / "grounding"
BUILT_BASELINE = BUILD / "baseline"
BUILT_ADAPTER = BUILD / "adapter"
BUILT_PACKAGE = BUILD / "package"
BUILT_EVALUATION = BUILD / "evaluation"
BUILT_EVALUATE_ASSISTANT = BUILD / "evaluate_assistant"
INCUMBENT = BUILD / "incumbent.json"

STATE = Path(".graft")
SECRETS = STATE / "secrets"
REGISTRY = STATE / "registry"
EMBEDDINGS = STATE / "embeddings"
INDEXES = STATE / "indexes"
INDEX_TABLES = STATE / "tables"
CLASSIFIERS = STATE / "classifiers"
TELEMETRY = STATE / "telemetry"
VISITORS_KEY = STATE / "visitors.key"
REPORTS = STATE / "reports"
INCIDENTS = STATE / "incidents"
CHECKPOINTS = STATE / "checkpoints"
SHOP = STATE / "shop" / "shop.sqlite"
LOGS = STATE / "logs"
RUN = STATE / "run"
