"""Banking77, a public dataset, swapped in without a code change: contract, prepare, train, evaluate."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas
import pytest

from deployments.stack.environment import stack_environment
from tasks.base import source_sha256
from tasks.core.files import write_json
from tasks.core.paths import BUILT_EVALUATION, BUILT_EXAMPLES, INCUMBENT, PROMPTS
from tasks.data.examples import load_examples
from tasks.evaluation.outputs import ROWS
from tests.conftest import ROOT
from tests.support.prefect_stack import copy_repository, edit_yaml

BANKING = Path(os.environ.get("GRAFT_BANKING77", ROOT.parent / "shared/data/banking77/train.csv"))
INTENTS = 4
ROWS_PER_INTENT = 30


def command(root: Path, *argv: str) -> str:
    done = subprocess.run(
        [sys.executable, *argv], cwd=root, env=stack_environment(root), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_slice(path: Path, kept: Sequence[str]) -> None:
    """The first rows of some intents, as CSV with the original's columns."""
    with BANKING.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["text", "category"])
        table.writeheader()
        for intent in kept:
            table.writerows([row for row in rows if row["category"] == intent][:ROWS_PER_INTENT])


@pytest.mark.skipif(not BANKING.is_file(), reason=f"no file {BANKING}; GRAFT_BANKING77 names another file")
def test_banking77_needs_no_code_change(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy_repository(tmp_path / "repository")
    source = tmp_path / "base"
    shutil.copytree(tiny_base, source)
    (source / "base.json").unlink()
    edit_yaml(
        root / "params.yaml",
        {
            "base.source": str(source),
            "base.sha256": source_sha256(source),
            "base.license": "Apache-2.0",
            "prompt.max_prompt_tokens": 3000,
            "train.first_adapted_layer": 0,
            "train.epochs": 2.0,
            "engine.max_new_tokens": 24,
        },
    )
    intents = ("card_arrival", "lost_or_stolen_card", "exchange_rate", "top_up_failed")
    write_slice(tmp_path / "slice.csv", intents)
    command(root, "-m", "dvc", "repro", "base")
    output = command(
        root, "-c", "from flows.cli import main; main()", "data", "add", str(tmp_path / "slice.csv"), "--input", "text",
        "--target", "category", "--system", "Name the customer's intent.", "--replace",
    )  # fmt: skip
    assert f"{INTENTS * ROWS_PER_INTENT} rows" in output
    assert (root / PROMPTS / "system.txt").read_text().strip() == "Name the customer's intent."

    write_json(root / INCUMBENT, {"digest": None})
    command(root, "-m", "dvc", "repro", "evaluate")
    monkeypatch.chdir(root)
    splits = {name: load_examples(BUILT_EXAMPLES / f"{name}.parquet") for name in ("train", "eval", "test")}
    assert sum(map(len, splits.values())) == INTENTS * ROWS_PER_INTENT
    assert {e.label for e in splits["eval"]} == set(intents)
    rows = pandas.read_parquet(BUILT_EVALUATION / ROWS)
    assert set(rows["system"]) == {"base", "candidate"}
    assert set(rows["id"]) == {e.id for e in splits["eval"]}
    assert set(rows["text"][rows["system"] == "candidate"]) != set(rows["text"][rows["system"] == "base"])
