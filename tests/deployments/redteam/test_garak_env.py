"""Tests of garak's environment: created from the lock file or a clear error, and without Graft's own variables."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from deployments.redteam.garak_env import LOCK, environment, named_garak, own_garak, require_known
from tasks.core.errors import GraftError
from tests.conftest import ROOT


def program(path: Path, body: str) -> Path:
    """An executable Python script."""
    path.write_text(f"#!{sys.executable}\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_without_a_package_index_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / LOCK).parent.mkdir()
    (tmp_path / LOCK).write_text("# a list\ngarak==0.17.1\nbackoff==2.2.1\n", encoding="utf-8")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(GraftError, match=r"could not be installed(?s:.*)garak==0.17.1(?s:.*)--garak"):
        own_garak()
    assert "garak and 1 packages" in capsys.readouterr().out
    assert not list(tmp_path.glob(".graft/garak/*/installed"))


def test_the_list_pins_everything_and_leaves_torch_out() -> None:
    lines = (ROOT / LOCK).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    names = {line.partition("==")[0].lower() for line in pins}
    assert {"garak", "openai", "nltk"} <= names
    assert not names & {"torch", "transformers", "datasets", "litellm"}


def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(GraftError, match="no such program"):
        named_garak("/nowhere/garak")


def test_only_releases_that_are_understood_are_taken(tmp_path: Path) -> None:
    known = program(tmp_path / "known", "print('garak LLM vulnerability scanner v0.17.3 ( https://x ) at now')")
    assert require_known(named_garak(str(known))) == "0.17.3"
    old = program(tmp_path / "old", "print('garak LLM vulnerability scanner v0.14.1 ( https://x ) at now')")
    with pytest.raises(GraftError, match=r"0\.14\.1"):
        require_known(named_garak(str(old)))
    other = program(tmp_path / "other", "raise SystemExit('I am a teapot')")
    with pytest.raises(GraftError, match="teapot"):
        require_known(named_garak(str(other)))


def test_it_gets_one_key_and_nothing_of_grafts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAFT_API_KEYS", "shop=sk-0123456789abcdef batch=sk-fedcba9876543210")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/a/persons/own")
    others = ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HF_TOKEN", "HOMEBREW_TOKEN", "PREFECT_API_AUTH_STRING", "PIP_X")
    for name in others:
        monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    variables = environment("sk-0123456789abcdef", tmp_path)
    assert "a secret" not in variables.values()
    assert variables["https_proxy"] == "http://proxy:3128"
    assert variables["PATH"] == os.environ["PATH"]
    assert [name for name, value in variables.items() if "sk-" in value] == ["OPENAICOMPATIBLE_API_KEY"]
    assert "PYTHONPATH" not in variables
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["XDG_DATA_HOME"] == str(tmp_path)
    assert not variables["XDG_CONFIG_HOME"].startswith("/a/persons")
