"""Artifacts of a release run in Prefect: contract, model card and summary."""

from __future__ import annotations

import json

import pandas as pd
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from deployments.app.access.api_keys import VARIABLE, read_keys
from deployments.serve import rollout
from deployments.stack.prefect_api import PrefectApi
from flows.release_steps.publish import today
from flows.release_steps.summary import ReleaseSummary, render
from tasks.core.paths import (
    BUILT_CONTRACT,
)
from tasks.core.settings import load_settings
from tasks.evaluation.outputs import ROWS
from tasks.model_package.manifest import read_manifest
from tasks.registry.registry import PRODUCTION, open_registry
from tasks.reports.release_card import CARD, PICTURE, release_card
from tasks.text.markdown import row

SUMMARY = "release-summary"


CARD_KEY = "model-card"


REPORT, RESULT = "report.html", "result.json"  # of the contract


def show_contract() -> None:
    """Keep the verdict of the data contract as an artifact in Prefect, with the path of its report."""
    path = BUILT_CONTRACT / RESULT
    if not path.is_file():
        return  # the stage failed before it had a verdict
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = ["# Contract: " + ("kept" if result["ok"] else "broken"), "", f"{result['lines']} lines", ""]
    lines += ["| rule | severity | verdict | violations | allowed | first |", "| --- | --- | --- | ---: | --- | --- |"]
    for rule in result["rules"]:
        first = "; ".join(f"{o['source']} {o['reason']}" for o in rule["offending"][:1])
        lines.append(row((rule["rule"], rule["severity"], rule["verdict"], rule["count"], rule["limit"], first)))
    page = "\n".join([*lines, "", f"Page: {(BUILT_CONTRACT / REPORT).resolve()}"])
    create_markdown_artifact(page + "\n", key="contract", description="Data contract")


def show_card(digest: str) -> None:
    """Keep the release card as an artifact in Prefect, with the data's age today; the loss curve stays on disk."""
    registry = open_registry()
    package, measured = registry.package(digest), registry.evaluation(digest)
    card = release_card(package, measured, load_settings().gate, today())
    page = card.replace(f"({PICTURE})", f"({(measured / PICTURE).as_uri()})")
    create_markdown_artifact(page, key=CARD_KEY, description=digest)


def summary(digest: str) -> str:
    """The summary of the package in production."""
    registry = open_registry()
    channel = registry.channel(PRODUCTION)
    assert channel is not None
    facts = ReleaseSummary(
        name=read_manifest(registry.package(digest)).name,
        digest=digest,
        since=channel.at,
        base_url=rollout.base_url(),
        key=f"one of {VARIABLE}" if read_keys() else "none",
        run_url=PrefectApi.of_stack().run_url(str(flow_run.id)),
        report=(BUILT_CONTRACT / REPORT).resolve(),
        card=registry.evaluation(digest) / CARD,
    )
    rows: pd.DataFrame = pd.read_parquet(registry.evaluation(digest) / ROWS)
    return render(facts, rows, load_settings().gate)
