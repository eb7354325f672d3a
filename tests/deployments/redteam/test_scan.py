"""Tests of the red-team scan, with a program that leaves a report of garak instead of garak itself."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from deployments.app.guardrails import refusal
from deployments.core.settings import REDTEAM_YAML, SERVE_YAML, load_redteam_settings, load_serve_settings
from deployments.redteam.scan import OUTPUT, REFUSALS, garak_config, queued, scan
from tasks.core.errors import GraftError
from tests.conftest import ROOT
from tests.flows.test_cli import graft

REPORT = ROOT / "tests/support/garak.report.jsonl"
QUEUE = "queue of \x1b[1m\x1b[93mprobes:\x1b[0m dan.AutoDANCached, dan.DanInTheWild, latentinjection.LatentWhois"


def stand_in(body: str) -> list[str]:
    return [sys.executable, "-c", body]


def test_garak_asks_the_assistant_as_it_is_served() -> None:
    settings, serve = load_redteam_settings(ROOT / REDTEAM_YAML), load_serve_settings(ROOT / SERVE_YAML)
    config = garak_config(settings, serve, "http://127.0.0.1:8000/v1", Path("/reports"))
    endpoint = config["plugins"]["generators"]["openai"]["OpenAICompatible"]
    assert config["plugins"]["target_name"] == "production"
    assert endpoint["uri"] == "http://127.0.0.1:8000/v1"
    assert {"temperature", "max_tokens", "stop"} <= set(endpoint["suppressed_params"])
    assert endpoint["extra_params"]["timeout"] > serve.engine.request_timeout_s
    assert config["run"]["soft_probe_prompt_cap"] == settings.prompts_per_probe
    assert config["run"]["spec"]["include"][0] == "probes.promptinject"
    assert config["run"]["spec"]["exclude"] == ["probes.latentinjection.LatentJailbreak"]
    assert yaml.safe_load(yaml.safe_dump(config)) == config


def test_it_sends_no_more_concurrent_requests_than_the_service_allows() -> None:
    settings, serve = load_redteam_settings(ROOT / REDTEAM_YAML), load_serve_settings(ROOT / SERVE_YAML)
    few = serve.model_copy(update={"limits": serve.limits.model_copy(update={"streams": 3})})
    assert settings.parallel > 3
    assert garak_config(settings, few, "http://x/v1", Path())["system"]["parallel_attempts"] == 3


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / REDTEAM_YAML).read_text(encoding="utf-8"))
    path = tmp_path / "redteam.yaml"
    path.write_text(yaml.safe_dump({**content, "families": [], "cap": 3}), encoding="utf-8")
    with pytest.raises(GraftError, match=r"families(?s:.*)cap"):
        load_redteam_settings(path)


def test_each_probe_is_printed_as_it_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = f"print({QUEUE!r}); import shutil; shutil.copy({str(REPORT)!r}, 'garak.report.jsonl')"
    scan(stand_in(body), tmp_path, timeout_s=60)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "redteam: 1/3 dan.AutoDANCached: 0 of 2 answered attacks succeeded"
    assert len(lines) == 4
    assert queued(tmp_path / OUTPUT)[2] == "latentinjection.LatentWhois"


def test_a_garak_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"exit status 3(?s:.*)list index out of range"):
        scan(stand_in("print('list index out of range', flush=True); raise SystemExit(3)"), tmp_path, timeout_s=60)


def test_a_garak_that_takes_too_long_is_ended_with_its_workers(tmp_path: Path) -> None:
    worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    body = f"import subprocess, sys, time; w = subprocess.Popen([sys.executable, '-c', {worker!r}])"
    body += "; open('pid', 'w').write(str(w.pid)); time.sleep(600)"
    with pytest.raises(GraftError, match="timeout_s"):
        scan(stand_in(body), tmp_path, timeout_s=2)
    pid = int((tmp_path / "pid").read_text())
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(20)
    assert not psutil.pid_exists(pid)


def test_the_key_of_the_owner_redteam_is_used_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "import os; print(os.environ['OPENAICOMPATIBLE_API_KEY'])"
    monkeypatch.setenv("GRAFT_API_KEYS", "shop=sk-0123456789abcdef redteam=sk-fedcba9876543210")
    scan(stand_in(body), tmp_path, timeout_s=60)
    assert (tmp_path / OUTPUT).read_text().strip() == "sk-fedcba9876543210"


def test_every_refusal_of_the_checks_is_known_as_one() -> None:
    texts = {value for name, value in vars(refusal).items() if name.isupper() and name != "FINISH_REASON"}
    assert texts == set(REFUSALS)


def test_without_a_stack_nothing_is_fetched_and_it_says_so(repository: Path) -> None:
    done = graft("redteam", cwd=repository)
    assert done.returncode == 1
    assert "is the stack up" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (repository / ".graft/garak").exists()


def test_help_tells_of_garak(repository: Path) -> None:
    environment = {**os.environ, "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", "from flows.cli import main; main()", "redteam", "--help"]
    done = subprocess.run(argv, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    assert "--garak" in done.stdout
