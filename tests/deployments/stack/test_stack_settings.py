"""The stack's settings: a wrong key is named, and so is the new file of the registry's."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.stack.stack_settings import STACK_YAML, load_stack_settings
from tasks.core.errors import GraftError
from tests.conftest import ROOT


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deployments").mkdir()
    (tmp_path / "deployments/stack.yaml").write_text("prefect: {hots: x}\n", encoding="utf-8")
    with pytest.raises(GraftError, match=r"prefect\.hots"):
        load_stack_settings(tmp_path)


def test_a_registry_in_the_file_of_version_0_1_is_sent_to_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "deployments").mkdir()
    shipped = (ROOT / STACK_YAML).read_text(encoding="utf-8")
    (tmp_path / STACK_YAML).write_text(f"{shipped}registry: {{location: a, endpoint: null}}\n", encoding="utf-8")
    with pytest.raises(GraftError, match=r"`registry` has moved to deployments/registry\.yaml"):
        load_stack_settings(tmp_path)
