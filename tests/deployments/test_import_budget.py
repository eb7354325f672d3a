"""Import budget of serving processes: the tools of the flows are not imported where requests are answered."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {"great_expectations", "evidently", "dvc", "prefect"}
TORCH = {"torch", "transformers", "peft"}


def imported(statement: str) -> set[str]:
    """Top-level packages in a fresh process after `statement`."""
    program = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(process.stdout))


def test_an_assistant_imports_neither_the_flows_tools_nor_torch() -> None:
    assert not imported("import deployments.serve.applications, deployments.replicas.engine") & (HEAVY | TORCH)


def test_a_replica_imports_none_of_the_flows_tools() -> None:
    packages = imported("import deployments.replicas.engine, tasks.engine.transformers")
    assert packages >= {"torch", "transformers"}
    assert not packages & HEAVY


def test_a_replica_on_the_default_engine_needs_no_torch() -> None:
    packages = imported("import deployments.replicas.engine, tasks.engine.openvino")
    assert "openvino_genai" in packages
    assert not packages & (HEAVY | TORCH)
