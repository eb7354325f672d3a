"""The registry is opened at the location in `deployments/stack.yaml`, and S3's client is imported only for S3."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.core.environment import STACK_YAML
from tasks.core.errors import GraftError
from tasks.core.paths import REGISTRY
from tasks.registry.registry import open_registry
from tests.conftest import ROOT
from tests.support.registries import RegistryLocation


def configure(root: Path, **registry: Any) -> Path:
    """A repository root with this configuration of the registry."""
    (root / "deployments").mkdir(exist_ok=True)
    content = yaml.safe_load((ROOT / STACK_YAML).read_text(encoding="utf-8"))
    content["registry"] = registry
    (root / STACK_YAML).write_text(yaml.safe_dump(content), encoding="utf-8")
    return root


def test_as_shipped_it_is_a_folder_of_the_repository_and_needs_no_boto3(tmp_path: Path) -> None:
    (tmp_path / "deployments").mkdir()
    shutil.copy(ROOT / STACK_YAML, tmp_path / STACK_YAML)
    code = (
        "import sys; from pathlib import Path; from tasks.registry.registry import open_registry;"
        "print(open_registry(Path(sys.argv[1])).store.where, 'boto3' in sys.modules)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path.resolve() / REGISTRY), "False"]


def test_a_folder_may_lie_elsewhere(tmp_path: Path) -> None:
    root = configure(tmp_path, location=str(tmp_path / "shared"), endpoint=None)
    assert open_registry(root).store.where == str(tmp_path.resolve() / "shared")


def test_in_s3_it_is_where_the_settings_say(s3_location: RegistryLocation, tmp_path: Path) -> None:
    root = configure(tmp_path, location=s3_location.url, endpoint=s3_location.endpoint)
    registry = open_registry(root)
    assert registry.store.where == s3_location.url
    assert registry.packages() == []
    assert registry.evaluation("f" * 64) == root.resolve() / REGISTRY / "evaluations" / ("f" * 64)


@pytest.mark.parametrize(
    ("registry", "message"),
    [
        ({"location": ".graft/registry"}, r"registry\.endpoint: Field required"),
        ({"location": "", "endpoint": None}, r"registry\.location"),
        ({"location": "a", "endpoint": None, "bucket": "b"}, r"registry\.bucket"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, registry: dict[str, Any], message: str) -> None:
    with pytest.raises(GraftError, match=message):
        open_registry(configure(tmp_path, **registry))
