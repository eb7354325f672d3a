"""The stack's environment: state below the root, no foreign accounts, no telemetry of dependencies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.stack.environment import find_root, stack_environment
from deployments.stack.stack_settings import load_stack_settings
from tasks.core.errors import GraftError
from tests.conftest import ROOT


def test_state_lies_below_the_root_and_paths_are_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    environment = stack_environment(Path())
    for key in ("PREFECT_HOME", "DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "HF_HOME", "MPLCONFIGDIR"):
        assert Path(environment[key]).is_relative_to(ROOT / ".graft")
    assert environment["PREFECT_API_URL"] == load_stack_settings().prefect.api_url
    assert environment["PREFECT_API_URL"].startswith("http://127.0.0.1:")


def test_the_callers_own_prefect_account_does_not_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.setenv("PREFECT_API_URL", "https://example.invalid/api")
    environment = stack_environment(ROOT)
    assert "PREFECT_API_KEY" not in environment
    assert "example.invalid" not in environment["PREFECT_API_URL"]


def test_python_in_a_stage_is_the_one_that_runs_graft() -> None:
    environment = stack_environment(ROOT)
    shown = ["python", "-c", "import sys, tasks; print(sys.executable)"]
    done = subprocess.run(shown, env=environment, cwd="/", capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent == Path(sys.executable).parent


def test_telemetry_of_dependencies_is_off() -> None:
    code = (
        "from prefect.settings import get_current_settings as s; import dvc.analytics, dvc.env;"
        "print(s().server.analytics_enabled, dvc.analytics.is_enabled())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=stack_environment(ROOT), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_the_root_is_found_from_below_and_its_absence_is_named(tmp_path: Path) -> None:
    assert find_root(ROOT / "tasks" / "engine") == ROOT
    with pytest.raises(GraftError, match="not inside a Graft repository"):
        find_root(tmp_path)
