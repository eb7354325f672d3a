"""Tests of the stack's errors at `up`, and of its cleanup; tests/integration/test_release.py runs a working stack."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.core.ports import free_port
from deployments.core.settings import load_serve_settings
from deployments.stack import stack
from deployments.stack.processes import records
from deployments.stack.stack_settings import load_stack_settings
from tasks.core.errors import GraftError
from tests.support.prefect_stack import edit_yaml


@pytest.mark.parametrize(
    ("port", "setting"),
    [
        (lambda: load_stack_settings().prefect.port, "prefect.port in deployments/stack.yaml"),
        (lambda: load_serve_settings().http.port, "http.port in deployments/serve.yaml"),
        (lambda: load_serve_settings().ray.gcs_port, "one_box.ray.gcs_port in deployments/serve.yaml"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_a_port_already_taken_is_named_with_its_setting(port: Callable[[], int], setting: str) -> None:
    error = pytest.raises(GraftError, match=f"port {port()} .* already taken.*{re.escape(setting)}")
    with socket.create_server(("127.0.0.1", port())), error:
        stack.up()
    assert records(Path.cwd()) == []


def test_what_was_started_is_stopped_when_a_part_does_not_come_up(repository: Path) -> None:
    edit_yaml(repository / "deployments/stack.yaml", {"prefect.start_timeout_s": 1})
    with pytest.raises(GraftError, match="prefect did not answer within 1 s"):
        stack.up()
    assert records(repository) == []
    assert [part.running for part in stack.status()] == [False, False, False]


def test_a_cluster_that_is_not_there_is_named_and_not_started(repository: Path) -> None:
    port = free_port()
    edit_yaml(repository / "deployments/serve.yaml", {"profile": "cluster", "cluster.ray.dashboard_port": port})
    with pytest.raises(GraftError, match=rf"no Ray answers at 127\.0\.0\.1:{port}: start its head"):
        stack.up()
    assert records(repository) == []


def test_a_record_of_a_dead_process_does_not_pass_for_a_running_part(repository: Path) -> None:
    run = repository / ".graft/run"
    run.mkdir(parents=True)
    (run / "prefect.json").write_text('{"pid": 4194304, "created": 1.0, "argv": []}', encoding="utf-8")
    assert not stack.status()[0].running
    assert stack.down() == []
    assert not (run / "prefect.json").exists()
