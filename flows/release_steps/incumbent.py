"""The incumbent that a candidate is compared with."""

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
    """Name what the candidate is to be compared with; says whether that changed.

    Where the candidate is in production itself, what it was compared with stays written down, so
    that a finished release stays fresh.
    """
    production = production_digest()
    known = json.loads(INCUMBENT.read_text(encoding="utf-8")) if INCUMBENT.is_file() else None
    wanted = {"digest": production}
    if known == wanted or (known is not None and production == package_digest(BUILT_PACKAGE)):
        return cached("the incumbent is the same as before", False)
    if production == package_digest(BUILT_PACKAGE):
        wanted = {"digest": None}
    write_json(INCUMBENT, wanted)
    return True
