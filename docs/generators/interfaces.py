"""The page of the Python interfaces; mkdocstrings reads their docstrings from the source when the site is built."""

from __future__ import annotations

import ast

from docs.generators.markdown import sections
from docs.generators.source import UndescribedError, parsed

INTRODUCTION = """
# Interfaces

The Python interfaces behind which a part can be replaced. The site fills this page in from the docstrings; in the
repository, read the modules named below.
"""
# Module and, for a part of one, the names to show.
MODULES: dict[str, tuple[str, ...]] = {
    "tasks.engine.protocol": (
        "Engine",
        "GenerationRequest",
        "SamplingParams",
        "JsonSchema",
        "Regex",
        "Tag",
        "Tags",
        "ConstraintError",
        "TokenChunk",
        "Generation",
        "generate",
    ),
    "tasks.tools.toolbox": ("tool", "Tool", "Toolbox", "Call", "Failure", "ToolError", "Once"),
    "tasks.tools.policy": ("rule", "Rule", "RuleResult", "Decision", "decide", "first_refusal"),
    "tasks.tools.domain_interface": (
        "Domain",
        "DomainToolService",
        "ToolAnswer",
        "TurnEvidence",
        "FinishedTurn",
        "LeakLimits",
    ),
    "tasks.registry.registry": ("open_registry", "Registry", "Channel", "Act", "ChannelConflictError"),
}


def page() -> str:
    """A heading per module, with mkdocstrings' directive for it."""
    return sections(INTRODUCTION, *(_module(name, members) for name, members in MODULES.items()))


def _module(name: str, members: tuple[str, ...]) -> str:
    described = {
        node.name
        for node in parsed(name.replace(".", "/") + ".py").body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    }
    if missing := [member for member in members if member not in described]:
        raise UndescribedError(f"{name}: no docstring of {', '.join(missing)}")
    listed = "\n".join(f"        - {member}" for member in members)
    return f"## {name}\n\n::: {name}\n    options:\n      members:\n{listed}"
