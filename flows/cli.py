"""The command line `graft`. Each command imports what it needs, so that `graft --help` is quick."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from deployments.stack.environment import find_root, stack_environment
from tasks.core.errors import run_main

app = typer.Typer(
    help="Grow a domain model on an open base model and keep it in production.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data = typer.Typer(help="The data that the model is made from.", no_args_is_help=True)
app.add_typer(data, name="data")
prompt = typer.Typer(help="The prompt: its versions, and what they were measured at.", no_args_is_help=True)
app.add_typer(prompt, name="prompt")
incident = typer.Typer(help="What went wrong in a rollout.", no_args_is_help=True)
app.add_typer(incident, name="incident")
release = typer.Typer(help="One release: what it is, and how it came to be.", no_args_is_help=True)
app.add_typer(release, name="release")
_PROMPT = "`production`, a package's digest, a git revision, a folder, or . for data/prompts."
_PACKAGE = "`production`, or 6 digits or more of a published package's digest."
_Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the registry.")]


@app.callback()
def enter(context: typer.Context) -> None:
    """Work in the repository root, with the stack's environment; remember where the person stood."""
    context.obj = Path.cwd()
    os.chdir(find_root(Path.cwd()))
    os.environ.update(stack_environment(Path.cwd()))


@app.command()
def up() -> None:
    """Start the stack: Prefect's server, the local Ray, Prefect's worker; serve what is in production."""
    from deployments.stack import stack
    from tasks.core.errors import GraftError

    not_served = stack.up()
    status()
    if not_served:
        raise GraftError(not_served)


@app.command()
def down() -> None:
    """Stop what `graft up` started, and nothing else."""
    from deployments.stack import stack

    if not stack.down():
        print("stack: nothing was running")


@app.command()
def status() -> None:
    """Show what runs, where it answers, and what is in production."""
    from deployments.serve.promotion import is_served, production_digest
    from deployments.serve.rollout import base_url
    from deployments.stack import stack

    for part in stack.status():
        state = f"pid {part.pid}" if part.running else "stopped"
        print(f"{part.name:8} {state:12} {part.address}")
    production = production_digest()
    print(f"{'model':8} {production or 'none in production yet'}  {base_url()}")
    if production and not is_served(production):
        print(f"{'':8} not served now; `graft up` serves it, or says why not")


@app.command()
def run() -> None:
    """Bring the stack up and run the release: from the raw data to an assistant in production."""
    _run("release", "release-summary")


@app.command()
def monitor() -> None:
    """Compare what production answered lately with what the gate judged."""
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
    """List what was in production, newest first, and what each release scored."""
    from tasks.registry.registry import open_registry
    from tasks.reports.releases import listing

    print(listing(open_registry()))


@release.command("show")
def show_release(name: Annotated[str, typer.Argument(help=_PACKAGE)] = "production") -> None:
    """Show a package: its card, its scores, what was done with it and who approved it."""
    from tasks.registry.registry import open_registry
    from tasks.reports.releases import describe, find

    registry = open_registry()
    print(describe(registry, find(registry, name)))


@app.command()
def promote(name: Annotated[str, typer.Argument(metavar="DIGEST", help=_PACKAGE)], reason: _Reason) -> None:
    """Put a published package into production, without the gate being asked again."""
    from tasks.registry.registry import open_registry
    from tasks.reports.releases import find

    registry = open_registry()
    production = registry.channel()
    _change(find(registry, name), production.digest if production else None, "promote", reason)


@app.command()
def rollback(
    reason: _Reason,
    name: Annotated[
        str | None, typer.Argument(metavar="[DIGEST]", help="Default: what was in production before.")
    ] = None,
) -> None:
    """Go back to the package that was in production before, or to the one that is named."""
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


@app.command("audit")
def show_audit() -> None:
    """Show who did what with which package, newest first, and who answers for which layer."""
    from tasks.core.settings import load_settings
    from tasks.registry.audit_log import read_audit, render
    from tasks.registry.registry import open_registry

    print(render(read_audit(open_registry()), load_settings().owners))


@app.command()
def redteam(
    garak: Annotated[
        str | None, typer.Option(help="A garak 0.17 to use, by path or name; else Graft installs one of its own.")
    ] = None,
) -> None:
    """Attack what is in production with garak's probes, and show how many attacks succeeded."""
    from deployments.redteam.scan import redteam as scan

    print(scan(garak))


@app.command()
def version() -> None:
    """Show Graft's version."""
    from importlib.metadata import version as installed

    print(f"graft {installed('graft')}")


@app.command()
def incidents() -> None:
    """List what went wrong in rollouts, newest first."""
    from tasks.rollout.incidents import describe
    from tasks.rollout.incidents import incidents as read

    found = read()
    for one in reversed(found):
        print(describe(one))
    if not found:
        print("no incident so far")


@incident.command()
def close(
    id: Annotated[str, typer.Argument(help="As `graft incidents` shows it.")],
    reason: Annotated[str, typer.Option(help="What it was, and what was done.")],
) -> None:
    """Close an incident: later ones of the same package and phase open a new one."""
    from datetime import UTC, datetime

    from tasks.registry.audit_log import actor
    from tasks.rollout.incidents import close as close_incident
    from tasks.rollout.incidents import describe

    print(describe(close_incident(id, actor(), reason, datetime.now(UTC))))


@data.command()
def add(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Chat JSONL, or CSV with --input and --target.")],
    input_column: Annotated[str | None, typer.Option("--input", help="CSV column with what the user says.")] = None,
    target_column: Annotated[str | None, typer.Option("--target", help="CSV column with the wanted answer.")] = None,
    system: Annotated[str | None, typer.Option(help="System text for these rows.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Use only this file; what is there is kept aside.")
    ] = False,
) -> None:
    """Bring your own data into data/raw, and check it against the contract."""
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
    """Compare two prompts: what the model reads of each, and how each was evaluated."""
    from tasks.registry.registry import open_registry
    from tasks.reports.prompt_diff import describe_difference
    from tasks.reports.prompt_versions import find_prompt

    registry = open_registry()
    print(describe_difference(find_prompt(a, registry, context.obj), find_prompt(b, registry, context.obj), registry))


@prompt.command()
def show(context: typer.Context, name: Annotated[str, typer.Argument(help=_PROMPT)] = ".") -> None:
    """Show a prompt's version and what the model reads of it."""
    from tasks.registry.registry import open_registry
    from tasks.reports.prompt_diff import describe
    from tasks.reports.prompt_versions import find_prompt

    print(describe(find_prompt(name, open_registry(), context.obj)))


def main() -> None:
    """Entry point: a `GraftError` is shown as its message, with exit status 1."""
    run_main(app)
