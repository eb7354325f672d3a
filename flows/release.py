"""Flow `release`: from raw data to an assistant in production, or a clear refusal.

    inputs -> base, contract, prepare, train, package, incumbent, evaluate, assistant  (DVC stages)
    -> gate -> publish -> deploy -> smoke -> shadow -> canary ... -> promote -> reference   (they act on the world)

Until `promote`, production serves what it served. Running it again finds finished work fresh.
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
from tasks.registry.audit_log import append_entry
from tasks.registry.registry import open_registry
from tasks.rollout.smoke_test import choose, smoke


@flow(name="release", log_prints=True)
def release() -> State:
    """Run the pipeline; release what it made if the gate lets it; end with the summary.

    One run at a time; while one waits for another's end, a third has nothing left to do.
    """
    with single_run("release") as mine:
        if not mine:
            return Completed(name="Skipped", message="another run waits to begin and will see the same files")
        return _release()


def _release() -> State:
    try:
        remember_run()
        # What a run that was killed left beside production, or running.
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
        create_markdown_artifact(summary(digest), key=SUMMARY, description="What is in production")
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
    """Say now, and not after an hour of training, that the server will not serve what would come of it.

    Raises:
        GraftError: the licence of the base or of the data is not on the server's list.
    """
    settings, terms = load_settings(), load_contract()
    licences = (("base", settings.base.licence), ("data", terms.licence))
    check_licenses(licences, settings.admission, "this release")


def serve(digest: str, production: str | None) -> None:
    """Take a published package to production, phase by phase; if one of them fails, take it out again."""
    settings = load_settings()
    between = parse_phases(settings.rollout.phases)[1:-1]
    if digest == production and rollout.served().production == digest:
        for name in ("deploy", "smoke", *(phase.label for phase in between), "promote"):
            step(name, lambda: cached("already in production"))()
        return
    try:
        step("deploy", rollout.deploy)(digest)
        step("smoke", try_out)(digest)
        if digest != production:  # else the channel was moved before, and the endpoint was not
            reach(digest, production, between, settings)
        step("promote", promote)(digest, production)
    except BaseException as error:
        roll_back(digest, production, error)
    rollout.undeploy_unused(set())


def reach(digest: str, production: str | None, between: Sequence[Phase], settings: Settings) -> None:
    """Go through the phases between, and ask a person where `rollout.approval` wants one.

    Raises:
        GraftError: a phase or the person said no, or could not say.
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


def require_approval(digest: str, found: str, hours: float, yes: Literal["approve", "override"] = "approve") -> None:
    """Wait for a person's word, and keep it; `yes` is what the audit log calls a yes.

    Raises:
        RefusedError: it was no.
        GraftError: nobody said anything for so many hours.
    """
    rollout.reset_traffic()  # nobody guards while a person thinks
    url = PrefectApi.of_stack().run_url(str(flow_run.id))
    print(f"approval: {found} A person decides within {hours:g} hours, by resuming this run: {url}")
    said = request_approval(f"May `{digest}` answer everybody? {found} Its card is the artifact `{CARD_KEY}`.", hours)
    append_entry(open_registry(), yes if said.approve else "reject", digest, said.reason, said.by, flow_run.name)
    if not said.approve:
        raise RefusedError(f"{said.by} rejected {digest}: {said.reason}; production is unchanged")


def try_out(digest: str) -> None:
    """Real requests through the live endpoint, to the candidate by its digest."""
    prompts = choose(load_examples(BUILT_EXAMPLES / "eval.parquet"), load_contract().labels)
    key = next(iter(read_keys().values()), "none")
    answers = smoke(rollout.base_url(), key, digest, prompts, load_serve_settings().engine.request_timeout_s)
    for name, answer in answers.items():
        print(f"smoke: {name}: {answer}")


def promote(digest: str, expected: str | None) -> None:
    """Move the channel, then the endpoint."""
    rollout.deploy(digest)  # again: while a person thought, Ray may have been started anew
    move_production(digest, expected, by_run(), channel_act())


def roll_back(digest: str, production: str | None, cause: BaseException) -> NoReturn:
    """Put channel and endpoint back to what they were, and raise `cause` again."""
    get_run_logger().error(f"{digest} is taken out again: {cause or type(cause).__name__}")
    promotion.roll_back(digest, production, cause, f"taken back by {by_run()}", channel_act())
