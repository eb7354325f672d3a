"""Tests of the command line interface (CLI) as a shell runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.registry.registry import LocalRegistry
from tests.conftest import ROOT
from tests.tasks.conftest import build_package  # noqa: F401

HEAVY = ("prefect", "ray", "torch", "transformers", "great_expectations", "evidently", "pandas")


def graft(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`graft ARGUMENTS` as a shell runs it."""
    argv = [sys.executable, "-c", "from flows.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from flows.cli import app; from typer.testing import CliRunner\n"
        "assert 'monitor' in CliRunner().invoke(app, ['--help']).output\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_outside_a_repository_it_says_so(tmp_path: Path) -> None:
    done = graft("releases", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "not inside a Graft repository" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_works_from_a_folder_below_the_root(repository: Path) -> None:
    done = graft("releases", cwd=repository / "data" / "raw")
    assert done.returncode == 0, done.stderr
    assert "no package was released yet" in done.stdout


def test_data_add_takes_a_path_from_where_the_person_stands(repository: Path, tiny_base: Path) -> None:
    (repository / "build").mkdir()
    (repository / "build/base").symlink_to(tiny_base)
    (repository / "data/mine.txt").write_text("no rows", encoding="utf-8")
    done = graft("data", "add", "mine.txt", cwd=repository / "data")
    assert done.returncode == 1
    assert "mine.txt" in done.stderr
    assert "Traceback" not in done.stderr
    absent = graft("data", "add", "absent.jsonl", cwd=repository / "data")
    assert absent.returncode == 1
    assert "absent.jsonl" in absent.stderr
    assert "Traceback" not in absent.stderr


def test_prompts_are_compared_by_names_from_where_the_person_stands(repository: Path) -> None:
    shutil.copytree(repository / "data/prompts", repository / "data/mine")
    (repository / "data/mine/system.txt").write_text("You are mine.", encoding="utf-8")
    done = graft("prompt", "diff", "mine", ".", cwd=repository / "data")
    assert done.returncode == 0, done.stderr
    assert "\n-You are mine.\n" in done.stdout
    assert "B: not evaluated yet" in done.stdout
    shown = graft("prompt", "show", "mine", cwd=repository / "data")
    assert "\nYou are mine.\n" in shown.stdout
    for arguments, message in (
        (["diff"], "production: no package was released yet"),
        (["show", "absent"], "absent: no such"),
    ):
        refused = graft("prompt", *arguments, cwd=repository / "data")
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"error: {message}")


def test_a_release_is_moved_only_where_the_stack_is_up(
    repository: Path,
    build_package: Callable[..., Any],  # noqa: F811
) -> None:
    registry = LocalRegistry(repository / ".graft/registry")
    one, two = (
        registry.publish(built.package, built.base, built.evaluation)
        for built in (build_package("one"), build_package("two"))
    )
    registry.swap("production", one, None, "first")
    registry.swap("production", two, one, "second")
    for arguments in (["rollback"], ["rollback", one[:8]], ["promote", one[:6]]):
        done = graft(*arguments, "--reason", "a test", cwd=repository)
        assert done.returncode == 1
        assert done.stderr.startswith("error: nothing was changed: Ray does not answer")
        assert "graft up" in done.stderr
    assert [swap.reason for swap in registry.history()] == ["first", "second"]
    assert graft("rollback", cwd=repository).returncode == 2, "a reason must be given"
    assert f"  {two[:12]}  " in graft("releases", cwd=repository).stdout.splitlines()[1]
    assert graft("release", "show", one[:6], cwd=repository).stdout.startswith(f"package {one}\n")
    assert "promote production" in graft("audit", cwd=repository).stdout
