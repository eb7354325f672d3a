"""Tests of the release flow's checks before its first stage; tests/integration/test_release.py runs the flow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.release import check_sources
from tasks.core.errors import GraftError
from tasks.core.paths import CONTRACT, PARAMS
from tests.conftest import ROOT
from tests.support.prefect_stack import edit_yaml


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the repository's parameters and contract."""
    for path in (PARAMS, CONTRACT):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_repositorys_own_sources_may_be_released(sources: Path) -> None:
    assert (sources / PARAMS).is_file()
    check_sources()


@pytest.mark.parametrize(("file", "key", "whose"), [(PARAMS, "base.license", "base"), (CONTRACT, "license", "data")])
def test_a_license_that_the_server_does_not_serve_ends_the_run_before_it_trains(
    sources: Path, file: Path, key: str, whose: str
) -> None:
    edit_yaml(sources / file, {key: "LicenseRef-Own"})
    with pytest.raises(GraftError, match=f"this release: the license of its {whose} is 'LicenseRef-Own'"):
        check_sources()
    allowed = {"admission.licenses": ["Apache-2.0", "CC0-1.0", "LicenseRef-Own"]}
    edit_yaml(sources / PARAMS, allowed)
    check_sources()
