"""The S3 store's own failures: copies that are not what was published, files in parts, and a server that refuses.

test_registry.py tests the behavior that it shares with a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.core.ports import free_port
from tasks.core.errors import GraftError
from tasks.core.files import sha256_file, sha256_tree, write_bytes
from tasks.registry import s3_store
from tasks.registry.s3_store import S3Store
from tests.support.registries import RegistryLocation


def put(location: RegistryLocation, key: str, content: bytes) -> None:
    """Write an object unconditionally, as another client with the keys might."""
    bucket, _, prefix = location.url.removeprefix("s3://").partition("/")
    location.open().store.client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=content)  # type: ignore[attr-defined]


@pytest.mark.parametrize("part", ["packages/{digest}/adapter/adapter.safetensors", "bases/{base}/model.safetensors"])
def test_a_copy_that_is_not_what_was_published_is_never_kept(
    s3_location: RegistryLocation, build_package: Callable[..., Any], part: str
) -> None:
    built = build_package()
    s3_location.open().publish(built.package, built.base, built.evaluation)
    put(s3_location, part.format(digest=built.digest, base="0" * 64), b"tampered")
    found = s3_location.open("elsewhere")
    for _ in range(2):
        with pytest.raises(GraftError, match="changed; this is not what was packaged"):
            found.package(built.digest)
    assert not list((s3_location.root / "elsewhere").rglob("adapter.safetensors"))


def test_what_was_fetched_is_read_without_the_server(
    s3_location: RegistryLocation, build_package: Callable[..., Any]
) -> None:
    built = build_package()
    s3_location.open().publish(built.package, built.base, built.evaluation)
    s3_location.open("elsewhere").verify(built.digest)
    off = S3Store(s3_location.url, f"http://127.0.0.1:{free_port()}", s3_location.root / "elsewhere")
    folder = off.folder(f"packages/{built.digest}", "manifest.json", lambda _: pytest.fail("fetched again"))
    assert sha256_tree(folder) == sha256_tree(built.package)


def test_an_evaluation_that_changed_on_the_way_is_not_used(
    s3_location: RegistryLocation, build_package: Callable[..., Any]
) -> None:
    built = build_package()
    s3_location.open().publish(built.package, built.base, built.evaluation)
    store = s3_location.open().store
    bucket, _, prefix = s3_location.url.removeprefix("s3://").partition("/")
    key = f"{prefix}/evaluations/{built.digest}/scores.json"
    metadata = store.client.head_object(Bucket=bucket, Key=key)["Metadata"]  # type: ignore[attr-defined]
    store.client.put_object(Bucket=bucket, Key=key, Body=b"{}", Metadata=metadata)  # type: ignore[attr-defined]
    with pytest.raises(GraftError, match=r"scores\.json is not what was uploaded"):
        s3_location.open("elsewhere").evaluation(built.digest)


def test_what_a_broken_off_publish_left_of_another_evaluation_is_replaced(
    s3_location: RegistryLocation, build_package: Callable[..., Any]
) -> None:
    built = build_package()
    put(s3_location, f"evaluations/{built.digest}/rows.parquet", b"of an earlier try")
    write_bytes(built.evaluation / "rows.parquet", b"of this one")
    s3_location.open().publish(built.package, built.base, built.evaluation)
    found = s3_location.open("elsewhere").evaluation(built.digest)
    assert sha256_tree(found) == sha256_tree(built.evaluation)


def test_a_large_file_goes_in_parts_and_comes_back_whole(
    s3_location: RegistryLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "PART_BYTES", 5 * 1024 * 1024)
    source = tmp_path / "source"
    write_bytes(source / "weights", bytes(range(256)) * 4 * 1024 * 11 + b"end")
    write_bytes(source / "last", b"")
    store, sent = s3_location.open().store, []
    store.client.meta.events.register(  # type: ignore[attr-defined]
        "before-send.s3.*", lambda event_name, **_: sent.append(event_name.rsplit(".", 1)[-1])
    )
    store.put_folder("bases/large", source, "last")
    assert sent.count("UploadPart") == 3
    store.put_folder("bases/large", source, "last")
    assert sent.count("UploadPart") == 3
    fetched = s3_location.open("elsewhere").store.folder("bases/large", "last", lambda _: None)
    assert sha256_file(fetched / "weights") == sha256_file(source / "weights")


def test_a_file_in_parts_does_not_replace_another(
    s3_location: RegistryLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other file is another writer's, which arrives between the check of the key and the upload."""
    monkeypatch.setattr(s3_store, "PART_BYTES", 5 * 1024 * 1024)
    write_bytes(tmp_path / "source/weights", bytes(6 * 1024 * 1024))
    write_bytes(tmp_path / "source/last", b"")
    store = s3_location.open().store
    store.client.meta.events.register(  # type: ignore[attr-defined]
        "before-send.s3.CreateMultipartUpload", lambda **_: put(s3_location, "bases/large/weights", b"another's")
    )
    with pytest.raises(GraftError, match="another writer is publishing a different"):
        store.put_folder("bases/large", tmp_path / "source", "last")
    assert store.names("bases", "last") == []


def test_a_wrong_key_an_absent_bucket_and_no_server_are_reported(
    s3_location: RegistryLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = S3Store("s3://nobodys-bucket/registry", s3_location.endpoint, s3_location.root)
    with pytest.raises(GraftError, match=r"s3://nobodys-bucket/registry: .*deployments/registry\.yaml"):
        absent.read("channels/production.json")
    offline = S3Store(s3_location.url, f"http://127.0.0.1:{free_port()}", s3_location.root)
    with pytest.raises(GraftError, match=r"Could not connect.*deployments/registry\.yaml"):
        offline.read("channels/production.json")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(GraftError, match="AWS_SECRET_ACCESS_KEY"):
        s3_location.open().channel()


def test_a_location_without_a_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="names no bucket"):
        S3Store("s3://", None, tmp_path)


@pytest.mark.parametrize("name", ["../../escaped.txt", "../escaped.txt", "/escaped.txt", "a/../../escaped.txt", "a//b"])
def test_an_object_whose_name_leads_out_of_its_folder_is_not_fetched(
    s3_location: RegistryLocation, build_package: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_package()
    s3_location.open().publish(built.package, built.base, built.evaluation)
    found = s3_location.open("elsewhere")
    store = found.store
    assert isinstance(store, S3Store)
    listed = store._list

    def with_another(prefix: str) -> Iterator[str]:
        yield f"{prefix}{name}"  # not every S3 server stores such a name
        yield from listed(prefix)

    monkeypatch.setattr(store, "_list", with_another)
    with pytest.raises(GraftError, match=r"is no file in packages/.*so the folder is not used"):
        found.package(built.digest)
    assert not list(s3_location.root.rglob("escaped.txt"))
