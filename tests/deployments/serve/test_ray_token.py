"""The token of Ray: the same for the head and all clients, whatever the environment and the home folder have."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from deployments.core.settings import load_serve_settings
from deployments.serve.ray_token import auth_headers, local_ray_environment
from tasks.core.paths import SECRETS

SETTINGS = load_serve_settings(Path(__file__).parents[3] / "deployments/serve.yaml")
OTHER = "the token of another Ray"


def test_the_local_ray_has_a_token_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, OTHER)
    assert auth_headers(SETTINGS.one_box.ray, tmp_path) == {}
    environment = local_ray_environment(tmp_path)
    path = tmp_path / SECRETS / "ray"
    assert environment == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(path)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert auth_headers(SETTINGS.one_box.ray, tmp_path) == {"Authorization": f"Bearer {path.read_text().strip()}"}


def test_a_clusters_token_is_found_where_ray_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ray = SETTINGS.cluster.ray
    assert auth_headers(ray) == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(f"{OTHER}\n", encoding="utf-8")
    assert auth_headers(ray) == {"Authorization": f"Bearer {OTHER}"}
    (tmp_path / "shared").write_text("from a file\n", encoding="utf-8")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "shared"))
    assert auth_headers(ray) == {"Authorization": "Bearer from a file"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from the environment")
    assert auth_headers(ray) == {"Authorization": "Bearer from the environment"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert auth_headers(ray) == {}
