"""Instructions of a package: its system prompt and its tools' descriptions, which no answer may leak."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tasks.model_package.manifest import PROMPT
from tasks.prompt.template import PromptSource
from tasks.registry.registry import Registry


class Instructions:
    """The instructions of published packages, by digest.

    Args:
        registry: holds the packages.
    """

    def __init__(self, registry: Registry) -> None:
        self._cached = cache(lambda digest: read_instructions(registry.package(digest)))

    def __call__(self, digest: str) -> tuple[str, ...]:
        """The instructions of one package.

        Raises:
            GraftError: there is no such package, or it has no prompt.
        """
        return self._cached(digest)


def read_instructions(package: Path) -> tuple[str, ...]:
    """The instructions of the package in this folder.

    Raises:
        GraftError: it has no prompt.
    """
    source = PromptSource.read(package / PROMPT)
    return (source.system, *(tool["function"].get("description", "") for tool in source.tools))
