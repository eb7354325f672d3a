"""The installation with a pip that only notes what it was asked for: what is installed when, and what is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from install import install as installation
from install import virtual_environment
from install.install import install, main, offered_torch, require_supported_system, torch_lock
from install.lock_files import CUDA, DEV, MODELS, RUNTIME, TORCH, WITHOUT_CUDA, this_platform
from install.virtual_environment import InstallError, VirtualEnvironment
from tests.conftest import ROOT

# Writes its arguments into `pip.log` and makes the dist-info folder of each package of a lock, and of Graft.
PIP = """
import json, os, pathlib, re, sys
site, root, given = pathlib.Path(__file__).parent, pathlib.Path.cwd(), sys.argv[1:]
if "index" in given:
    sys.exit(print(os.environ["INDEX"]) if "INDEX" in os.environ else "ERROR: no matching distribution")
with open(root / "pip.log", "a") as log:
    print(json.dumps(given), file=log)
lock = (root / given[-1]).read_text() if given[-1].endswith(".lock") else ""
if os.environ.get("FAIL", "nothing") in lock.split():
    sys.exit(1)
for name, version in re.findall(r"^([a-z0-9-]+)==(\\S+)", lock, re.M):
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text("Requires-Dist: nvidia-cublas\\n" if "CUDA" in os.environ else "")
if given[-1] == ".":
    (site / "graft-1.dist-info").mkdir(exist_ok=True)
    (site / "graft-1.dist-info" / "direct_url.json").write_text(json.dumps({"url": root.as_uri()}))
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with locks of few packages."""
    root = tmp_path / "check out's"
    root.mkdir()
    here = f"{this_platform()}, Python {sys.version_info.major}.{sys.version_info.minor}"
    a_hash = f"    --hash=sha256:{'0' * 64}\n"
    texts = {
        TORCH: f"# 500 MB: {here}\n# 100 MB: {here}{WITHOUT_CUDA}\nsetuptools==1\ntorch==2.0 \\\n{a_hash}",
        CUDA: f"# 2000 MB: {here}\nnvidia-cublas==3\n",
        RUNTIME: f"# 40 MB: {here}\n# 7 MB: {MODELS}\none==1\nsetuptools==1\n",
        DEV: f"# 60 MB: {here}\none==1\nsetuptools==1\ntwo==2\n",
        "pyproject.toml": "",
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(virtual_environment, "MAKE", ("-m", "venv", "--without-pip"))
    monkeypatch.setattr(installation, "require_supported_system", lambda: None)
    monkeypatch.setenv("INDEX", "torch (2.1)\nAvailable versions: 2.1, 2.0+cpu, 2.0")
    give_pip(root)
    return root


def give_pip(root: Path) -> VirtualEnvironment:
    environment = VirtualEnvironment(root)
    environment.make_usable()
    (environment.site_packages() / "pip.py").write_text(PIP, encoding="utf-8")
    return environment


def asked(root: Path) -> list[str]:
    """The last argument of each call of pip since the last question: a lock, or `.` for Graft itself."""
    log = root / "pip.log"
    calls = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    log.unlink(missing_ok=True)
    return [call[-1] if call[-1] == "." else Path(call[-1]).name for call in calls]


def test_running_installs_its_lock_once_and_testing_adds_to_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(root, RUNTIME)
    assert asked(root) == [TORCH, RUNTIME, "."]
    assert capsys.readouterr().out.strip() == (
        "install: downloading 40 MB of packages and 100 MB of torch without CUDA into .venv; "
        f"{installation.TOOK}. The first release downloads 7 MB of models and data."
    )
    install(root, RUNTIME)
    assert (asked(root), capsys.readouterr().out) == ([], "")
    install(root, DEV)
    assert asked(root) == [DEV]
    assert "downloading at most 60 MB of packages into .venv; a whole installation" in capsys.readouterr().out
    install(root, RUNTIME)
    install(root, DEV)
    assert (asked(root), capsys.readouterr().out) == ([], ""), "running needs nothing after testing"


def test_hashes_are_required_and_only_what_is_locked_is_installed(root: Path) -> None:
    install(root, RUNTIME)
    calls = [json.loads(line) for line in (root / "pip.log").read_text(encoding="utf-8").splitlines()]
    assert all({"--require-hashes", "--no-deps"} <= set(call) for call in calls[:-1])
    assert {"--no-deps", "--no-build-isolation", "--editable"} <= set(calls[-1])


def test_a_changed_lock_is_installed(root: Path) -> None:
    install(root, DEV)
    (root / RUNTIME).write_text((root / RUNTIME).read_text(encoding="utf-8") + "three==3\n", encoding="utf-8")
    asked(root)
    install(root, RUNTIME)
    assert asked(root) == [RUNTIME]
    install(root, DEV)
    assert asked(root) == [DEV], "the shared packages may have changed under it"


@pytest.mark.skipif(sys.platform != "linux", reason="CUDA libraries are for Linux")
def test_cuda_libraries_come_with_a_build_of_torch_that_asks_for_them(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INDEX", "Available versions: 2.1, 2.0")
    monkeypatch.setenv("CUDA", "13")
    install(root, RUNTIME)
    assert asked(root) == [TORCH, RUNTIME, CUDA, "."]
    assert "2500 MB of torch with CUDA (README.md" in capsys.readouterr().out


def test_a_build_of_torch_with_other_cuda_libraries_gets_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / CUDA).write_text("other==1\n", encoding="utf-8")
    monkeypatch.setattr(VirtualEnvironment, "cuda_requirements", lambda self: {"nvidia-cublas"})
    (root / "torch==2.0+cpu").touch()
    install(root, RUNTIME)
    assert asked(root) == [TORCH, RUNTIME, "torch==2.0+cpu", "."]
    assert "without hashes" in capsys.readouterr().out


def test_other_builds_of_torch_are_taken_by_their_hashes_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch_lock(root, "2.0+cpu") as path:
        assert f"torch==2.0+cpu \\\n    --hash=sha256:{'0' * 64}\n" in path.read_text(encoding="utf-8")
    monkeypatch.setenv("TORCH_HASHES", f"sha256:{'a' * 64},{'b' * 64}")
    with torch_lock(root, "2.0") as path:
        text = path.read_text(encoding="utf-8")
    assert f"torch==2.0 \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'b' * 64}\n" in text
    assert "0" * 64 not in text
    assert "setuptools==1" in text
    monkeypatch.setenv("TORCH_HASHES", "latest")
    with pytest.raises(InstallError, match="TORCH_HASHES: has no sha256"), torch_lock(root, "2.0"):
        pass


def test_a_failure_is_told_in_one_sentence_and_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installation, "ROOT", root)
    monkeypatch.setenv("FAIL", "setuptools==1")
    with pytest.raises(SystemExit, match=r"error: pip could not install .*requirements-torch\.lock.*TORCH_HASHES="):
        main(RUNTIME)
    monkeypatch.setenv("FAIL", "one==1")
    with pytest.raises(SystemExit, match=r"^error: pip could not install requirements\.lock; its reason is above\.$"):
        main(RUNTIME)
    monkeypatch.delenv("FAIL")
    asked(root)
    (VirtualEnvironment(root).site_packages() / "torch-2.0+cpu.dist-info" / "RECORD").write_text("torch/gone.py,,\n")
    main(RUNTIME)
    assert asked(root) == [TORCH, RUNTIME, "."]
    assert "torch-2.0+cpu was installed in part" in capsys.readouterr().out


def test_an_index_without_torch_is_named_before_anything_is_downloaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INDEX")
    with pytest.raises(InstallError, match=r"does its index answer .*ERROR: no matching"):
        install(root, RUNTIME)
    assert asked(root) == []


def test_the_build_of_torch_that_is_offered_is_the_one_that_is_locked_for_pip(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left to choose by hashes, pip takes PyPI's build of several GB where the small one lies in a folder."""
    environment = VirtualEnvironment(root)
    assert offered_torch(environment) == "2.0+cpu"
    monkeypatch.setenv("INDEX", "Available versions: 2.10.0, 2.0+cu126, 2.0, 1.0")
    assert offered_torch(environment) == "2.0+cu126"
    install(root, RUNTIME)
    assert "MB of packages and torch 2.0+cu126 into" in capsys.readouterr().out
    assert environment.torch_version() == "2.0+cu126"


def test_a_linked_environment_keeps_the_graft_of_its_own_checkout(root: Path, tmp_path: Path) -> None:
    install(root, RUNTIME)
    asked(root)
    other = tmp_path / "worktree"
    shutil.copytree(root, other, ignore=shutil.ignore_patterns(".venv"))
    (other / ".venv").symlink_to(root / ".venv")
    install(other, RUNTIME)
    assert asked(other) == []
    (other / RUNTIME).write_text("one==2\n" + (other / RUNTIME).read_text(encoding="utf-8"), encoding="utf-8")
    install(other, RUNTIME)
    assert asked(other) == [RUNTIME]
    assert VirtualEnvironment(other).graft_from() == root


def test_settings_of_pip_that_name_another_place_do_not_apply(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = 'import os\nassert os.environ["PIP_USER"] == "0" and "PIP_TARGET" not in os.environ\n'
    (VirtualEnvironment(root).site_packages() / "pip.py").write_text(places + PIP, encoding="utf-8")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_TARGET", "/nowhere")
    install(root, RUNTIME)


@pytest.mark.parametrize(
    ("platform", "libc", "message"),
    [
        (
            "Linux riscv64",
            ("glibc", "2.40"),
            "Graft runs on Linux x86_64, Linux aarch64 and macOS arm64; this machine is",
        ),
        ("Linux x86_64", ("glibc", "2.17"), "glibc 2.31 or newer; this system has glibc 2.17"),
        ("Linux x86_64", ("", ""), "this system has another C library"),
    ],
)
def test_a_system_that_no_wheel_fits_is_named(
    monkeypatch: pytest.MonkeyPatch, platform: str, libc: tuple[str, str], message: str
) -> None:
    monkeypatch.setattr(installation, "this_platform", lambda: platform)
    monkeypatch.setattr(installation.platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(installation.platform, "machine", lambda: platform.split()[1])
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(InstallError, match=message):
        require_supported_system()


def make_target(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for given in ("PYTHON=", "PYTHON=/nowhere/python3", "PYTHON=false"):
        done = make_target(tmp_path, "run", given)
        assert done.returncode != 0
        assert done.stderr.startswith("error: Graft needs Python 3.11 to 3.13; say where: make PYTHON="), done.stderr


def test_make_passes_loopback_by_a_proxy(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    show = "show:\n\t@echo $$NO_PROXY $$no_proxy $$ALL_PROXY\n"
    (tmp_path / "show.mk").write_text(f"include Makefile\n{show}", encoding="utf-8")
    given = ("NO_PROXY=.example.org", "no_proxy=.example.org", "ALL_PROXY=socks5://127.0.0.1:9")
    done = subprocess.run(
        ["env", *given, "make", "-s", "-f", "show.mk", "show"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["127.0.0.1,localhost,::1,.example.org"] * 2
