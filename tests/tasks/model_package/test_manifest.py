"""The manifest: a package whose files differ from it in any byte is not used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import GraftError
from tasks.core.files import sha256_file, write_json, write_text
from tasks.model_package.manifest import BASE, MANIFEST, package_digest, read_manifest, verify_package


def test_the_digest_is_the_manifests_own(build_package: Callable[..., Any]) -> None:
    built = build_package()
    assert package_digest(built.package) == sha256_file(built.package / MANIFEST)
    assert verify_package(built.package, built.base, built.digest) == read_manifest(built.package)


def test_the_digest_follows_the_content_and_not_the_provenance(build_package: Callable[..., Any]) -> None:
    one, other = build_package("one"), build_package("other")
    assert one.digest != other.digest
    write_text(one.package / "provenance.json", "{}")
    assert package_digest(one.package) == one.digest
    verify_package(one.package, one.base, one.digest)


@pytest.mark.parametrize(
    ("folder", "name", "content", "how"),
    [
        ("package", "adapter/adapter.safetensors", "other weights", "changed"),
        ("package", "adapter/adapter.safetensors", None, "missing"),
        ("package", "adapter/more.py", "import os", "not listed"),
        ("base", "model.safetensors", "other weights", "changed"),
        ("base", "pytorch_model.bin", "pickle", "not listed"),
    ],
)
def test_any_other_file_is_refused(
    build_package: Callable[..., Any], folder: str, name: str, content: str | None, how: str
) -> None:
    built = build_package()
    path: Path = getattr(built, folder) / name
    if content is None:
        path.unlink()
    else:
        write_text(path, content)
    with pytest.raises(GraftError) as error:
        verify_package(built.package, built.base)
    assert f"{name}: {how}" in str(error.value)


@pytest.mark.parametrize("part", ["sha256", "architecture"])
def test_a_base_that_calls_itself_another_is_refused(build_package: Callable[..., Any], part: str) -> None:
    built = build_package()
    info = json.loads((built.base / BASE).read_text(encoding="utf-8"))
    write_json(built.base / BASE, {**info, part: "another"})
    with pytest.raises(GraftError, match=f"this base's {part} is another, and the package was made on one whose"):
        verify_package(built.package, built.base)


def test_a_folder_that_says_nothing_of_itself_is_no_base(build_package: Callable[..., Any]) -> None:
    built = build_package()
    (built.base / BASE).unlink()
    with pytest.raises(GraftError, match="cannot be read as a description of the base"):
        verify_package(built.package, built.base)


def test_another_digest_than_the_expected_is_refused(build_package: Callable[..., Any]) -> None:
    built = build_package()
    with pytest.raises(GraftError, match=f"expected {'f' * 64}"):
        verify_package(built.package, built.base, "f" * 64)


def test_a_folder_that_is_no_package_is_refused(build_package: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="not a model package"):
        read_manifest(tmp_path)
    built = build_package()
    write_text(built.package / MANIFEST, '{"name": "x"}')
    with pytest.raises(GraftError, match="not a manifest that this version can read"):
        read_manifest(built.package)
