"""Secret files: one secret per name and clone, for its owner's eyes alone."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.core.secret_files import make_secret, read_secret
from tasks.core.errors import GraftError
from tasks.core.paths import SECRETS


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    assert read_secret(tmp_path, "prefect") is None
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: make_secret(tmp_path, "prefect"), range(8)))
    assert len(made) == 1
    assert read_secret(tmp_path, "prefect") in made
    assert len(made.pop()) >= 40
    assert stat.S_IMODE((tmp_path / SECRETS / "prefect").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / SECRETS).iterdir()] == ["prefect"]
    assert make_secret(tmp_path, "ray") != read_secret(tmp_path, "prefect")


def test_a_secret_that_others_may_read_or_that_is_empty_is_not_used(tmp_path: Path) -> None:
    secret = make_secret(tmp_path, "prefect")
    path = tmp_path / SECRETS / "prefect"
    path.chmod(0o644)
    with pytest.raises(GraftError, match=r"secrets/prefect: other users may read it; delete it") as error:
        make_secret(tmp_path, "prefect")
    assert secret not in str(error.value)
    path.chmod(0o600)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(GraftError, match="it is empty"):
        read_secret(tmp_path, "prefect")
