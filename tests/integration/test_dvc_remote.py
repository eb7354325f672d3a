"""A DVC remote on a real S3 server: a fresh clone pulls the package that another one pushed, byte for byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tasks.model_package.manifest import package_digest, verify_package
from tests.conftest import ROOT
from tests.support.ray_stack import make_package
from tests.support.s3_server import BUCKET, S3Server


def command(*argv: str, cwd: Path, server: S3Server) -> str:
    names = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}
    environment = {**os.environ, **server.environment, **names}
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_fresh_clone_pulls_the_package_that_was_pushed(
    tiny_base: Path, tiny_prompts: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    origin, clone, dvc = tmp_path / "origin", tmp_path / "clone", (sys.executable, "-m", "dvc")
    shutil.copytree(ROOT / ".dvc", origin / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    digest = package_digest(make_package(origin / "package", 1, tiny_base, tiny_prompts))
    command("git", "init", "--quiet", ".", cwd=origin, server=s3_server)
    command(*dvc, "remote", "add", "--default", "team", f"s3://{BUCKET}/dvc", cwd=origin, server=s3_server)
    command(*dvc, "remote", "modify", "team", "endpointurl", s3_server.endpoint, cwd=origin, server=s3_server)
    command(*dvc, "add", "package", cwd=origin, server=s3_server)
    command(*dvc, "push", cwd=origin, server=s3_server)
    command("git", "add", ".", cwd=origin, server=s3_server)
    command("git", "commit", "--quiet", "-m", "a package", cwd=origin, server=s3_server)

    command("git", "clone", "--quiet", str(origin), str(clone), cwd=tmp_path, server=s3_server)
    assert not (clone / "package").exists()
    command(*dvc, "pull", cwd=clone, server=s3_server)
    verify_package(clone / "package", tiny_base, digest)
    assert "in sync" in command(*dvc, "status", "--cloud", cwd=clone, server=s3_server)
