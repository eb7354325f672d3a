"""Flow `release`: from raw data to an assistant in production, or a clear reason why not.

    inputs -> the stages of dvc.yaml, with `incumbent` before `evaluate`
    -> gate -> publish -> deploy -> smoke -> shadow -> canary ... -> promote -> reference   (effects outside build/)

Until `promote`, production serves the package that it served before. A repeated run skips finished work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NoReturn

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from deployments.app.access.api_keys import read_keys
from deployments.core.settings import load_serve_settings
from deployments.serve import promotion, rollout
from deployments.serve.promotion import move_production, production_digest
from deployments.stack.prefect_api import PrefectApi
from flows.release_steps.approval import request_approval
from flows.release_steps.artifacts import CARD_KEY, SUMMARY, show_card, show_contract, summary
from flows.release_steps.canary_phases import BreachError, UndecidedError, go_through
from flows.release_steps.dvc_stages import run_stages
from flows.release_steps.incumbent import write_incumbent
from flows.release_steps.publish import RefusedError, by_run, channel_act, keep_reference, publish, run_gate
from flows.release_steps.single_run import single_run
from flows.release_steps.step import cached, step
from tasks.core.errors import GraftError
from tasks.core.paths import (
    BUILT_EXAMPLES,
    BUILT_PACKAGE,
)
from tasks.core.rollout_phases import Phase, parse_phases
from tasks.core.settings import Settings, load_settings
from tasks.data.contract_spec import load_contract
from tasks.data.examples import load_examples
from tasks.model_package.admission import check_licenses
from tasks.model_package.manifest import package_digest
from tasks.monitoring.change_detection import remember_run
from tasks.registry.audit_log import append_entry, claimed
from tasks.registry.registry import open_registry
from tasks.rollout.smoke_test import choose, smoke


@flow(name="release", log_prints=True)
def release() -> State:
    """Run the pipeline, release the package if the gate passes it, and end with the summary.

    There is one run at a time. While one waits for another to end, a third is skipped, since the waiting one reads
    the same files.
    """
    with single_run("release") as acquired:
        if not acquired:
            return Completed(name="Skipped", message="another run is waiting to begin and will read the same files")
        return _release()


def _release() -> State:
    try:
        remember_run()
        # A killed run may have left a canary or shadow beside production, or unused packages running.
        rollout.reset_traffic()
        rollout.undeploy_unused(set())
        check_sources()
        run_stages(before={"evaluate": step("incumbent", write_incumbent)}, after={"contract": show_contract})
        digest = package_digest(BUILT_PACKAGE)
        production = production_digest()
        if digest != production:
            step("gate", run_gate)(digest)
            step("publish", publish)(digest)
        show_card(digest)
        serve(digest, production)
        step("reference", keep_reference)(digest)
        create_markdown_artifact(summary(digest), key=SUMMARY, description="The package in production")
    except RefusedError as refusal:
        return Failed(name="Refused", message=str(refusal))
    except BreachError as breach:
        return Failed(name="RolledBack", message=str(breach))
    except UndecidedError as undecided:
        return Failed(name="Inconclusive", message=str(undecided))
    except GraftError as error:
        return Failed(message=str(error))
    return Completed(message=f"{digest} is in production")


def check_sources() -> None:
    """Check the licenses of base and data before training, since the server would refuse the package after it.

    Raises:
        GraftError: the license of the base or of the data is not on the server's list.
    """
    settings, contract = load_settings(), load_contract()
    licenses = (("base", settings.base.license), ("data", contract.license))
    check_licenses(licenses, settings.admission, "this release")


def serve(digest: str, production: str | None) -> None:
    """Roll a published package out to production, phase by phase; if a phase fails, roll it back."""
    settings = load_settings()
    between = parse_phases(settings.rollout.phases)[1:-1]
    if digest == production and rollout.served().production == digest:
        for name in ("deploy", "smoke", *(phase.label for phase in between), "promote"):
            step(name, lambda: cached("already in production"))()
        return
    try:
        step("deploy", rollout.deploy)(digest)
        step("smoke", try_out)(digest)
        if digest != production:  # else an earlier run moved the channel and not the endpoint
            reach(digest, production, between, settings)
        step("promote", promote)(digest, production)
    except BaseException as error:
        roll_back(digest, production, error)
    rollout.undeploy_unused(set())


def reach(digest: str, production: str | None, between: Sequence[Phase], settings: Settings) -> None:
    """Go through the rollout phases before production, and request approval where `rollout.approval` requires it.

    Args:
        digest: the candidate.
        production: digest of the package in production, if any.
        between: phases after `prototype` and before `production`.
        settings: rollout and canary analysis.

    Raises:
        GraftError: a phase failed or was inconclusive, or approval was rejected or not granted in time.
    """
    try:
        go_through(between, digest, production, settings)
    except UndecidedError as undecided:
        if settings.rollout.approval == "never":
            raise
        require_approval(digest, str(undecided), settings.rollout.approval_hours, "override")
    else:
        if settings.rollout.approval == "always":
            require_approval(digest, "Every phase was healthy or skipped.", settings.rollout.approval_hours)


def require_approval(
    digest: str, result: str, hours: float, action: Literal["approve", "override"] = "approve"
) -> None:
    """Wait for a person's approval, and write the decision to the audit log.

    Args:
        digest: the candidate.
        result: result of the phases, as a sentence for the person.
        hours: timeout, in hours.
        action: name of an approval in the audit log.

    Raises:
        RefusedError: the candidate was rejected.
        GraftError: there was no decision before the timeout.
    """
    rollout.reset_traffic()  # no canary analysis runs while the person decides
    url = PrefectApi.of_stack().run_url(str(flow_run.id))
    decide = f"`graft approve` or `graft reject` with a --reason, or the form at {url}"
    print(f"approval: {result} Waiting up to {hours:g} hours for a decision: {decide}")
    question = f"Promote `{digest}` to production? {result} Its model card is the artifact `{CARD_KEY}`."
    decision = request_approval(question, hours)
    entry = action if decision.approve else "reject"
    who = claimed(decision.by)  # anyone who has Prefect's password can enter any name
    append_entry(open_registry(), entry, digest, decision.reason, who, flow_run.name)
    if not decision.approve:
        raise RefusedError(f"{who} rejected {digest}: {decision.reason}; production is unchanged")


def try_out(digest: str) -> None:
    """Run the smoke test: real requests through the live endpoint, to the candidate by its digest."""
    prompts = choose(load_examples(BUILT_EXAMPLES / "eval.parquet"), load_contract().labels)
    key = next(iter(read_keys().values()), "none")
    answers = smoke(rollout.base_url(), key, digest, prompts, load_serve_settings().engine.request_timeout_s)
    for name, answer in answers.items():
        print(f"smoke: {name}: {answer}")


def promote(digest: str, expected: str | None) -> None:
    """Move the channel, then the endpoint."""
    rollout.deploy(digest)  # again, since Ray may have been restarted during the approval
    move_production(digest, expected, by_run(), channel_act())


def roll_back(digest: str, production: str | None, cause: BaseException) -> NoReturn:
    """Restore channel and endpoint to the package before, and raise `cause` again."""
    get_run_logger().error(f"rolling back {digest}: {cause or type(cause).__name__}")
    promotion.roll_back(digest, production, cause, f"rolled back by {by_run()}", channel_act())
