"""Fixture of the integration tests: a real Ray with Serve, once per module, on ports and in folders of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deployments.core.ports import take_free_ports
from deployments.core.settings import load_serve_settings
from deployments.serve import rollout
from tasks.core.paths import PARAMS, REGISTRY, SHOP_SEED
from tasks.registry.registry import REGISTRY_YAML, LocalRegistry
from tests.support.ray_stack import RayStack, make_package, start_head, stop_head

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def ray_stack(tiny_base: Path, tiny_prompts: Path) -> Iterator[RayStack]:
    root = Path(tempfile.mkdtemp(prefix="graft-"))
    content = yaml.safe_load((ROOT / "deployments/serve.yaml").read_text(encoding="utf-8"))
    take_free_ports(content)
    content["engine"].update(threads=1, max_queued=64)
    content["one_box"]["engine"].update(num_cpus=0.1, memory_mb=100)
    content["shadow"]["fraction"] = 1.0
    shutil.copy(ROOT / PARAMS, root)
    shutil.copytree(ROOT / SHOP_SEED, root / SHOP_SEED)
    (root / "deployments").mkdir()
    (root / "deployments/serve.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    registry = {"location": str(REGISTRY), "endpoint": None}
    (root / REGISTRY_YAML).write_text(yaml.safe_dump(registry), encoding="utf-8")
    before = Path.cwd()
    os.chdir(root)

    def publish(seed: int) -> str:
        evaluation = root / "evaluation"
        evaluation.mkdir(exist_ok=True)
        package = root / f"package-{seed}"
        if not package.exists():
            make_package(package, seed, tiny_base, tiny_prompts)
        return LocalRegistry().publish(package, tiny_base, evaluation)

    settings = load_serve_settings()
    head = start_head(settings, root)
    try:
        rollout.redeploy(None)
        yield RayStack(root, settings, publish, head)
    finally:
        stop_head(head)
        os.chdir(before)
        shutil.rmtree(root)
