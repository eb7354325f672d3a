"""What a package tells its model and nobody else: its system text, and what its tools are for."""

from __future__ import annotations

from functools import cache

from tasks.manifest import PROMPT
from tasks.prompt import PromptSource
from tasks.registry import LocalRegistry


class Instructions:
    """The instructions of published packages, by digest.

    Args:
        registry: where they are.
    """

    def __init__(self, registry: LocalRegistry) -> None:
        self._of = cache(lambda digest: _read(registry, digest))

    def __call__(self, digest: str) -> tuple[str, ...]:
        """Those of one package.

        Raises:
            GraftError: it is not there, or holds no prompt.
        """
        return self._of(digest)


def _read(registry: LocalRegistry, digest: str) -> tuple[str, ...]:
    source = PromptSource.read(registry.package(digest) / PROMPT)
    return (source.system, *(tool["function"].get("description", "") for tool in source.tools))
