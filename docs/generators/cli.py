"""The page of the command line interface, from the typer application."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from docs.generators.markdown import block, code, prose, sections, table
from docs.generators.source import UndescribedError
from flows.cli import app

INTRODUCTION = """
# Command line

`graft` is installed as `.venv/bin/graft`. It works in any folder of the repository, changes to its root, and reads
paths on the command line relative to the folder in which it was called. `--help` after a command shows the text below.

A command that succeeds exits with status 0. An error is one message, `error: …`, on standard error, with status 1: a
refused or failed run of `graft run` and `graft monitor` too. A command line that cannot be parsed has status 2.
"""

# typer's own classes are private, so commands and parameters have no type here.
Command = Any
Parameter = Any


def page() -> str:
    """Every command with its arguments and options."""
    root = typer.main.get_command(app)
    return sections(INTRODUCTION, prose(_help(root)), *(_command(*each) for each in commands(root)))


def commands(group: Command, name: str = "graft") -> Iterator[tuple[str, Command]]:
    """The full name of each command below a group, in alphabetical order."""
    for part, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {part}")
        else:
            yield f"{name} {part}", command


def _command(name: str, command: Command) -> str:
    parameters = [one for one in command.params if one.name != "help"]
    rows = [(_names(one), _meaning(name, one), _type(one), _default(one)) for one in parameters]
    usage = " ".join([name, *(_usage(one) for one in parameters)])
    return sections(
        f"## {name}",
        prose(_help(command)),
        block("text", usage) if rows else "",
        table(("parameter", "meaning", "type", "default"), rows),
    )


def _help(command: Command) -> str:
    if not command.help:
        raise UndescribedError(f"the command {command.name} has no docstring")
    return str(command.help)


def _is_argument(parameter: Parameter) -> bool:
    return bool(parameter.param_type_name == "argument")


def _metavar(parameter: Parameter) -> str:
    named = parameter.metavar or (parameter.name if _is_argument(parameter) else _kind(parameter))
    return str(named).strip("[]").upper()


def _usage(parameter: Parameter) -> str:
    if _is_argument(parameter):
        text = _metavar(parameter)
    else:
        text = parameter.opts[0] if parameter.is_flag else f"{parameter.opts[0]} {_metavar(parameter)}"
    return text if parameter.required else f"[{text}]"


def _names(parameter: Parameter) -> str:
    return code(_metavar(parameter)) if _is_argument(parameter) else ", ".join(map(code, parameter.opts))


def _meaning(name: str, parameter: Parameter) -> str:
    if not parameter.help:
        raise UndescribedError(f"{name}: the parameter {parameter.name} has no help")
    return re.sub(r"; default: [^.;]+(?=\.|;|$)", "", parameter.help)


def _type(parameter: Parameter) -> str:
    return "flag" if not _is_argument(parameter) and parameter.is_flag else _kind(parameter)


def _kind(parameter: Parameter) -> str:
    return {"str": "text"}.get(name := parameter.type_descriptor.annotation.__name__.lower(), name)


def _default(parameter: Parameter) -> str:
    if parameter.required:
        return "required"
    if stated := re.search(r"; default: ([^.;]+)", parameter.help or ""):
        return stated[1]
    return "" if parameter.default in (None, False) else code(parameter.default)
