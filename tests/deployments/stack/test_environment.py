"""The stack's environment: state below the root, no foreign accounts, no telemetry of dependencies."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deployments.stack.environment import DVC_WITHOUT_GIT, find_root, stack_environment, with_direct_loopback
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


def test_a_python_in_a_folder_with_spaces_stays_one_word_of_a_flow_runs_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/a folder/it's/bin/python")
    command = f"{stack_environment(ROOT)['GRAFT_PYTHON']} -m prefect.engine"
    assert shlex.split(command) == ["/a folder/it's/bin/python", "-m", "prefect.engine"], (
        "as Prefect's worker splits it"
    )


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


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()


def test_loopback_is_reached_directly_with_proxies_of_every_kind_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No proxy listens on port 9. httpx does not start at all with a proxy of another scheme than HTTP."""
    for name in ("HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "socks://127.0.0.1:9")
    server = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "import sys, urllib.request, httpx, requests; url = sys.argv[1];"
        "print(urllib.request.urlopen(url).status, httpx.get(url).status_code, requests.get(url).status_code)"
    )
    argv = [sys.executable, "-c", code, f"http://127.0.0.1:{server.server_port}"]
    environment = stack_environment(ROOT)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    server.shutdown()
    assert done.stdout.split() == ["204"] * 3, done.stderr
    assert environment["HTTP_PROXY"] == "http://127.0.0.1:9", "downloads go through it"


def test_hosts_that_bypass_the_proxy_already_still_do() -> None:
    environment = with_direct_loopback(
        {"no_proxy": ".example.org", "HTTP_PROXY": "proxy:3128"}, "10.0.0.7", "127.0.0.1"
    )
    assert environment["NO_PROXY"] == ".example.org,127.0.0.1,localhost,::1,10.0.0.7"
    assert environment["no_proxy"] == environment["NO_PROXY"]
    assert environment["HTTP_PROXY"] == "proxy:3128"


@pytest.mark.parametrize("git", [True, False])
def test_dvc_needs_no_git_repository(tmp_path: Path, git: bool) -> None:
    root = tmp_path / "a tree"
    shutil.copytree(ROOT / DVC_WITHOUT_GIT, root / DVC_WITHOUT_GIT)
    shutil.copy(ROOT / "deployments/stack.yaml", root / "deployments/stack.yaml")
    (root / ".dvc").mkdir()
    (root / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo 1 > one\n    outs: [one]\n", encoding="utf-8")
    if git:
        subprocess.run(["git", "init", "--quiet", "."], cwd=root, check=True)
    environment = stack_environment(root)
    argv = [sys.executable, "-m", "dvc", "repro", "one"]
    done = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (root / ".gitignore").exists() == git
