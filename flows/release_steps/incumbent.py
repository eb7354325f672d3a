"""The incumbent: the package in production, with which the stage `evaluate` compares the candidate."""

from __future__ import annotations

import json

from prefect.client.schemas.objects import State

from deployments.serve.promotion import production_digest
from flows.release_steps.step import cached
from tasks.core.files import write_json
from tasks.core.paths import (
    BUILT_PACKAGE,
    INCUMBENT,
)
from tasks.model_package.manifest import package_digest


def write_incumbent() -> State | bool:
    """Write the incumbent's digest to a file that the stage `evaluate` reads; return whether it changed.

    Where the candidate itself is in production, the file keeps the incumbent with which it was compared, so that
    the stages of a finished release stay up to date.
    """
    production = production_digest()
    known = json.loads(INCUMBENT.read_text(encoding="utf-8")) if INCUMBENT.is_file() else None
    incumbent = {"digest": production}
    if known == incumbent or (known is not None and production == package_digest(BUILT_PACKAGE)):
        return cached("the incumbent is the same as before", False)
    if production == package_digest(BUILT_PACKAGE):
        incumbent = {"digest": None}
    write_json(INCUMBENT, incumbent)
    return True
