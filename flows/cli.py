"""The command line interface (CLI) `graft`. Each command imports its own modules, so that `graft --help` is quick."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from deployments.stack.environment import find_root, stack_environment
from tasks.core.errors import run_main

app = typer.Typer(
    help="Train a domain assistant on an open base model, release it through an eval gate and a canary rollout, "
    "and operate it in production.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data = typer.Typer(help="Manage the training data.", no_args_is_help=True)
app.add_typer(data, name="data")
prompt = typer.Typer(help="Show and compare versions of the prompt.", no_args_is_help=True)
app.add_typer(prompt, name="prompt")
incident = typer.Typer(help="Close incidents of rollouts; `graft incidents` lists them.", no_args_is_help=True)
app.add_typer(incident, name="incident")
release = typer.Typer(help="Show one release; `graft releases` lists them.", no_args_is_help=True)
app.add_typer(release, name="release")
_PROMPT = (
    "`production`, 8 or more digits of a package's or prompt's digest, a git revision, a folder, or . for data/prompts."
)
_PACKAGE = "`production`, or at least 6 digits of a published package's digest."
_Reason = Annotated[str, typer.Option("--reason", help="Reason of the change, for the audit log.")]


@app.callback()
def enter(context: typer.Context) -> None:
    """Change to the repository root and load the stack's environment; keep the caller's working directory."""
    context.obj = Path.cwd()
    os.chdir(find_root(Path.cwd()))
    environment = stack_environment(Path.cwd())
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


@app.command()
def up() -> None:
    """Start the stack (Prefect server, local Ray, Prefect worker) and serve the package in production."""
    from deployments.stack import stack
    from tasks.core.errors import GraftError

    not_served = stack.up()
    status()
    if not_served:
        raise GraftError(not_served)


@app.command()
def down() -> None:
    """Stop the processes that `graft up` started, and no others."""
    from deployments.stack import stack

    if not stack.down():
        print("stack: was not running")


@app.command()
def status() -> None:
    """Show the stack's processes and addresses, and the package in production."""
    from deployments.serve.promotion import is_served, production_digest
    from deployments.serve.rollout import base_url
    from deployments.stack import stack

    for part in stack.status():
        state = f"pid {part.pid}" if part.running else "stopped"
        print(f"{part.name:8} {state:12} {part.address}")
    production = production_digest()
    print(f"{'model':8} {production or 'none in production yet'}  {base_url()}")
    if production and not is_served(production):
        print(f"{'':8} not served now; run `graft up` to serve it or to see why it cannot be served")


@app.command()
def run() -> None:
    """Start the stack and run a release: train, evaluate, gate, and roll out to production."""
    _run("release", "release-summary")


@app.command()
def monitor() -> None:
    """Check production for drift: compare recent requests and answers with the reference."""
    _run("monitor", "drift-summary")


def _run(deployment: str, summary: str) -> None:
    from deployments.stack import stack
    from deployments.stack.prefect_api import PrefectApi
    from deployments.stack.run_flow import run_and_follow

    if not_served := stack.up():
        print(not_served, flush=True)
    run_and_follow(PrefectApi.of_stack(), deployment, summary)


@app.command()
def releases() -> None:
    """List all releases, newest first, with their evaluation scores."""
    from tasks.registry.registry import open_registry
    from tasks.reports.releases import listing

    print(listing(open_registry()))


@release.command("show")
def show_release(name: Annotated[str, typer.Argument(help=_PACKAGE)] = "production") -> None:
    """Show a package: provenance, release card with scores, history and approvals."""
    from tasks.registry.registry import open_registry
    from tasks.reports.releases import describe, find

    registry = open_registry()
    print(describe(registry, find(registry, name)))


@app.command()
def promote(name: Annotated[str, typer.Argument(metavar="DIGEST", help=_PACKAGE)], reason: _Reason) -> None:
    """Promote a published package to production directly, without gate and rollout phases."""
    from tasks.registry.registry import open_registry
    from tasks.reports.releases import find

    registry = open_registry()
    production = registry.channel()
    _change(find(registry, name), production.digest if production else None, "promote", reason)


@app.command()
def rollback(
    reason: _Reason,
    name: Annotated[
        str | None, typer.Argument(metavar="[DIGEST]", help="Package to return to; default: the previous one.")
    ] = None,
) -> None:
    """Roll production back to the previous package, or to a named one."""
    from tasks.registry.registry import open_registry
    from tasks.reports.releases import find, in_production, to_go_back_to

    registry = open_registry()
    production = in_production(registry)
    digest = find(registry, name) if name else to_go_back_to(registry)
    _change(digest, production.digest, "rollback", reason)


def _change(digest: str, production: str | None, action: Literal["promote", "rollback"], reason: str) -> None:
    from deployments.serve.promotion import describe, switch_production
    from tasks.registry.audit_log import actor
    from tasks.registry.registry import Act

    print(describe(switch_production(digest, production, reason, Act(action=action, who=actor()))))


@app.command()
def approve(reason: _Reason) -> None:
    """Approve the release that waits for a decision: it goes to production."""
    _decide(approve=True, reason=reason)


@app.command()
def reject(reason: _Reason) -> None:
    """Reject the release that waits for a decision: production stays as it is."""
    _decide(approve=False, reason=reason)


def _decide(*, approve: bool, reason: str) -> None:
    from deployments.stack.approvals import decide
    from deployments.stack.prefect_api import PrefectApi
    from tasks.registry.audit_log import claimed_name

    print(decide(PrefectApi.of_stack(), approve=approve, by=claimed_name(), reason=reason))


@app.command("audit")
def show_audit() -> None:
    """Show the audit log: every action on a package, newest first, and the owner of each layer."""
    from tasks.core.settings import load_settings
    from tasks.registry.audit_log import read_audit, render
    from tasks.registry.registry import open_registry

    print(render(read_audit(open_registry()), load_settings().owners))


@app.command()
def redteam(
    garak: Annotated[
        str | None, typer.Option(help="Program of a garak 0.17, by path or name; default: Graft installs its own.")
    ] = None,
) -> None:
    """Red-team the assistant in production with garak's probes, and show the attack success rates."""
    from deployments.redteam.scan import redteam as scan

    print(scan(garak))


@app.command()
def version() -> None:
    """Show Graft's version."""
    from importlib.metadata import version as installed

    print(f"graft {installed('graft')}")


@app.command()
def incidents() -> None:
    """List incidents: breaches that canary analysis found in rollouts, newest first."""
    from tasks.rollout.incidents import describe
    from tasks.rollout.incidents import incidents as read

    listed = read()
    for one in reversed(listed):
        print(describe(one))
    if not listed:
        print("no incidents")


@incident.command()
def close(
    id: Annotated[str, typer.Argument(help="Id of the incident, as `graft incidents` shows it.")],
    reason: Annotated[str, typer.Option(help="Cause of the incident and the action taken.")],
) -> None:
    """Close an incident; a later breach of the same package and phase opens a new one."""
    from datetime import UTC, datetime

    from tasks.registry.audit_log import actor
    from tasks.rollout.incidents import close as close_incident
    from tasks.rollout.incidents import describe

    print(describe(close_incident(id, actor(), reason, datetime.now(UTC))))


@data.command()
def add(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSONL file of chats, or CSV file with --input and --target.")],
    input_column: Annotated[str | None, typer.Option("--input", help="CSV column with the user's message.")] = None,
    target_column: Annotated[str | None, typer.Option("--target", help="CSV column with the reference answer.")] = None,
    system: Annotated[str | None, typer.Option(help="System message for these rows.")] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Make this file the whole data set; the old one is kept in .graft/replaced."),
    ] = False,
) -> None:
    """Import a file of your own data into data/raw, and check it against the data contract."""
    from tasks.data.importer import add as add_file

    path = context.obj / file.expanduser()
    added = add_file(path, input_column=input_column, target_column=target_column, system=system, replace=replace)
    print(added.describe())


@prompt.command()
def diff(
    context: typer.Context,
    a: Annotated[str, typer.Argument(help=_PROMPT)] = "production",
    b: Annotated[str, typer.Argument(help=_PROMPT)] = ".",
) -> None:
    """Compare two prompts: a diff of the text that the model reads, and their evaluations."""
    from tasks.registry.registry import open_registry
    from tasks.reports.prompt_diff import describe_difference
    from tasks.reports.prompt_versions import find_prompt

    registry = open_registry()
    print(describe_difference(find_prompt(a, registry, context.obj), find_prompt(b, registry, context.obj), registry))


@prompt.command()
def show(context: typer.Context, name: Annotated[str, typer.Argument(help=_PROMPT)] = ".") -> None:
    """Show a prompt's version and the text that the model reads."""
    from tasks.registry.registry import open_registry
    from tasks.reports.prompt_diff import describe
    from tasks.reports.prompt_versions import find_prompt

    print(describe(find_prompt(name, open_registry(), context.obj)))


def main() -> None:
    """Entry point: a `GraftError` is shown as its message, with exit status 1."""
    run_main(app)


if __name__ == "__main__":
    main()
