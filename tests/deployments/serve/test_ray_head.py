"""Tests of the Ray head's command line and of its preconditions; tests/integration/test_serving.py runs it.

Also covers `deployments/core/ports.py`.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest

from deployments.core.ports import RAY_PORTS, free_port
from deployments.core.settings import ServeSettings, load_serve_settings
from deployments.serve.ray_head import head_command, private_dir, ready, require_free_ports, temp_dir
from tasks.core.errors import GraftError

SERVE_YAML = Path(__file__).parents[3] / "deployments/serve.yaml"


@pytest.fixture
def settings() -> ServeSettings:
    """The repository's settings, on free ports."""
    shipped = load_serve_settings(SERVE_YAML)
    ray = shipped.one_box.ray.model_copy(update={key: free_port() for key in RAY_PORTS})
    box = shipped.one_box.model_copy(update={"ray": ray})
    return shipped.model_copy(update={"one_box": box, "http": shipped.http.model_copy(update={"port": free_port()})})


@pytest.fixture
def short_root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="g-", dir="/tmp") as folder:
        yield Path(folder)


def test_the_shipped_ports_are_all_different() -> None:
    shipped = load_serve_settings(SERVE_YAML)
    ports = [shipped.http.port, *(getattr(shipped.one_box.ray, key) for key in RAY_PORTS)]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize("key", ["http.port", *(f"one_box.ray.{key}" for key in RAY_PORTS)])
def test_a_taken_port_is_named_with_its_setting(settings: ServeSettings, key: str) -> None:
    require_free_ports(settings)
    port = attrgetter(key)(settings)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(GraftError) as error:
        require_free_ports(settings)
    assert f"port {port}" in str(error.value)
    assert f"set {key} in deployments/serve.yaml" in str(error.value)


def test_the_head_stays_on_loopback_and_reports_no_usage(settings: ServeSettings, short_root: Path) -> None:
    command, environment = head_command(settings.one_box.ray, short_root)
    assert "--node-ip-address=127.0.0.1" in command
    assert "--dashboard-host=127.0.0.1" in command
    assert "--disable-usage-stats" in command
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert f"--temp-dir={short_root / '.graft/ray'}" in command


def test_a_long_path_gets_a_short_private_folder(
    tmp_path: Path, short_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_root))
    deep = tmp_path / ("d" * 60)
    folder = temp_dir(deep)
    assert folder == temp_dir(deep)
    assert folder.parent.parent == short_root
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert len(os.fsencode(folder)) < 40
    assert str(folder) in capsys.readouterr().out
    folder.chmod(0o777)  # as Ray leaves it
    assert folder == temp_dir(deep)
    folder.parent.chmod(0o755)
    with pytest.raises(GraftError, match="only you can access"):
        temp_dir(deep)


def test_a_path_with_spaces_or_quotes_never_reaches_rays_command_lines(
    settings: ServeSettings, tmp_path: Path, short_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray writes its Python into a shell's command line and a library beside it into LD_PRELOAD, unquoted."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_root))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "it's here" / ".venv"))
    monkeypatch.setattr(sys, "executable", f"{sys.prefix}/bin/python")
    root = short_root / "a 'b' #1"
    for _ in range(2):
        command, _ = head_command(settings.one_box.ray, root)
        private = temp_dir(root)
        assert command[0] == f"{private.parent}/venv/bin/python"
        assert f"--temp-dir={private}" in command
    assert (private.parent / "venv").readlink() == Path(sys.prefix)


def test_a_temporary_folder_that_ray_cannot_use_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary files"))
    folder = private_dir(tmp_path / "one")
    assert folder.parent == Path("/tmp")
    folder.rmdir()


def test_an_absent_head_is_not_ready(settings: ServeSettings) -> None:
    assert not ready(settings.ray)
