"""The application of one package with a faulty engine, which fails once when a file names the fault.

The file `.graft/fault` holds `memory` (the next step allocates more than there is) or `stall` (the step never ends).
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ray import serve

from deployments.replicas.engine import EngineReplica as Replica
from deployments.serve import applications
from tasks.engine.protocol import Engine, GenerationRequest, TokenChunk

FAULT = Path(".graft/fault")


class FaultyEngine:
    def __init__(self, engine: Engine, fault: Path) -> None:
        self._engine = engine
        self._fault = fault

    def submit(self, key: int, request: GenerationRequest) -> None:
        self._engine.submit(key, request)

    def cancel(self, key: int) -> None:
        self._engine.cancel(key)

    def step(self) -> list[TokenChunk]:
        if self._fault.exists():
            fault = self._fault.read_text(encoding="utf-8")
            self._fault.unlink()
            if fault == "stall":
                threading.Event().wait()
            bytearray(1 << 60)
        return self._engine.step()


class EngineReplica(Replica):
    def __init__(self, digest: str, root: str, settings: dict[str, Any], admission: dict[str, Any]) -> None:
        super().__init__(digest, root, settings, admission)
        self._queue._engine = FaultyEngine(self._model.engine, Path(root) / FAULT)


def engine(sent: dict[str, Any]) -> serve.Application:
    applications.EngineReplica = EngineReplica  # type: ignore[misc]
    return applications.engine(sent)
