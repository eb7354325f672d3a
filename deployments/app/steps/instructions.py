"""What a package tells its model and nobody else: its system text, and what its tools are for."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tasks.model_package.manifest import PROMPT
from tasks.prompt.template import PromptSource
from tasks.registry.registry import Registry


class Instructions:
    """The instructions of published packages, by digest.

    Args:
        registry: where they are.
    """

    def __init__(self, registry: Registry) -> None:
        self._of = cache(lambda digest: read_instructions(registry.package(digest)))

    def __call__(self, digest: str) -> tuple[str, ...]:
        """Those of one package.

        Raises:
            GraftError: it is not there, or holds no prompt.
        """
        return self._of(digest)


def read_instructions(package: Path) -> tuple[str, ...]:
    """Those of the package in this folder.

    Raises:
        GraftError: it holds no prompt.
    """
    source = PromptSource.read(package / PROMPT)
    return (source.system, *(tool["function"].get("description", "") for tool in source.tools))
