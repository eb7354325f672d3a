"""S3 store of a registry (S3 or a compatible server): conditional writes there, verified local copies here.

Small objects are written with If-None-Match or If-Match. A folder consists of its files under one prefix,
and the file that marks it as complete is uploaded last. Engines open packages from local folders, so a folder
is fetched into the cache once. Credentials and region come from the environment (`AWS_*`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.core.errors import GraftError
from tasks.core.files import keep_folder, sha256_file
from tasks.registry.folder_store import Check, StoredObject

T = TypeVar("T")
PART_BYTES = 64 * 1024 * 1024
"""The size of a part in bytes; a larger file is uploaded in parts (S3 accepts 10,000 parts of 5 MiB or more)."""
_READERS = 8
_MAX_ATTEMPTS = 5
_ABSENT = {"404", "NoSuchKey"}
_PRECONDITION_FAILED = {"412", "PreconditionFailed"}
_CONFLICT = {"409", "ConditionalRequestConflict"}


class S3Store:
    """A store under a prefix of a bucket.

    Args:
        location: `s3://BUCKET` or `s3://BUCKET/PREFIX`.
        endpoint: the server's address, or None for AWS.
        cache: the folder for fetched copies, with the layout of a registry in a folder.
    """

    def __init__(self, location: str, endpoint: str | None, cache: Path) -> None:
        parts = urlsplit(location)
        prefix = parts.path.strip("/")
        if not parts.netloc:
            raise GraftError(f"location in deployments/registry.yaml: {location} names no bucket")
        self.where = location
        self._bucket, self._prefix, self._cache = parts.netloc, f"{prefix}/" if prefix else "", cache.resolve()
        config = Config(
            retries={"mode": "standard", "max_attempts": 3},
            # Other servers than AWS's support neither checksums in trailers nor buckets as host names.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if endpoint else "auto"},
        )
        with self._client_errors():
            # The store has its own session, because the shared one keeps the first credentials that it read.
            self.client: Any = boto3.Session().client("s3", endpoint_url=endpoint, config=config)

    def read(self, key: str) -> StoredObject | None:
        with self._client_errors():
            response = _none_if_code(_ABSENT, lambda: self.client.get_object(**self._address(key)))
            return StoredObject(response["Body"].read(), response["ETag"]) if response else None

    def write(self, key: str, content: bytes, expected: str | None) -> bool:
        condition = _condition(expected)
        with self._client_errors():
            return self._send_conditionally(
                lambda: self.client.put_object(**self._address(key), Body=content, **condition)
            )

    def read_all(self, prefix: str) -> list[bytes]:
        keys = list(self._list(prefix))
        with ThreadPoolExecutor(_READERS) as readers:
            return [stored.content for stored in readers.map(self.read, keys) if stored]

    def put_folder(self, key: str, source: Path, last: str) -> None:
        """Upload the files that are missing, `last` at the end, and keep a copy, because it is served here next."""
        if self._head(f"{key}/{last}"):
            return
        files = [path for path in source.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path == source / last, path)):
            self._put_file(f"{key}/{path.relative_to(source).as_posix()}", path)
        keep_folder(self._cache / key, lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True))

    def folder(self, key: str, last: str, check: Check) -> Path:
        path = self._cache / key
        if not path.is_dir() and (whole := self._head(f"{key}/{last}")):
            keep_folder(path, lambda folder: self._fetch(key, folder, check, whole["LastModified"]))
        return path

    def names(self, key: str, last: str) -> list[str]:
        paths = (name.removeprefix(f"{key}/").split("/") for name in self._list(f"{key}/"))
        return sorted(parts[0] for parts in paths if parts[1:] == [last])

    def _fetch(self, key: str, folder: Path, check: Check, at: datetime) -> None:
        """Download a folder and check it; its modification time is that of its upload, `at`."""
        for name in self._list(f"{key}/"):
            path = folder / self._inside(key, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            sha256 = (self._head(name) or {"Metadata": {}})["Metadata"].get("sha256")
            with self._client_errors():
                self.client.download_file(self._bucket, self._prefix + name, str(path))
            if sha256 and sha256_file(path) != sha256:
                raise GraftError(f"{self.where}: {name} is not what was uploaded, so it is not used")
        check(folder)
        os.utime(folder, (at.timestamp(), at.timestamp()))

    def _inside(self, key: str, name: str) -> PurePosixPath:
        """The path of an object in the folder `key`: in a bucket, an object may have any name.

        Raises:
            GraftError: the path would lie outside the folder, or is none.
        """
        below = name.removeprefix(f"{key}/")
        path = PurePosixPath(below)
        if path.is_absolute() or ".." in path.parts or str(path) != below:
            raise GraftError(
                f"{self.where}: {name!r} is no file in {key}, so the folder is not used; delete the object"
            )
        return path

    def _put_file(self, key: str, path: Path) -> None:
        """Upload a file, unless it is there already. A different file, of an interrupted upload, is replaced.

        Raises:
            GraftError: another writer is uploading a different file under this key.
        """
        sha256, existing = sha256_file(path), self._head(key)
        if existing and existing["Metadata"].get("sha256") == sha256:
            return
        condition, metadata = _condition(existing["ETag"] if existing else None), {"sha256": sha256}
        with self._client_errors():
            sent = self._send_conditionally(lambda: self._send(key, path, condition, metadata))
        if not sent and (self._head(key) or {"Metadata": {}})["Metadata"].get("sha256") != sha256:
            raise GraftError(f"{self.where}: another writer is publishing a different {key} at the moment; try again")

    def _send(self, key: str, path: Path, condition: dict[str, str], metadata: dict[str, str]) -> None:
        with path.open("rb") as file:
            if path.stat().st_size <= PART_BYTES:
                self.client.put_object(**self._address(key), Body=file, Metadata=metadata, **condition)
                return
            upload = self.client.create_multipart_upload(**self._address(key), Metadata=metadata)["UploadId"]
            try:
                parts = []
                for number, part in enumerate(iter(lambda: file.read(PART_BYTES), b""), 1):
                    sent = self.client.upload_part(**self._address(key), UploadId=upload, PartNumber=number, Body=part)
                    parts.append({"PartNumber": number, "ETag": sent["ETag"]})
                whole = {"Parts": parts}
                self.client.complete_multipart_upload(
                    **self._address(key), UploadId=upload, MultipartUpload=whole, **condition
                )
            except BaseException:
                self.client.abort_multipart_upload(**self._address(key), UploadId=upload)
                raise

    def _head(self, key: str) -> dict[str, Any] | None:
        with self._client_errors():
            return _none_if_code(_ABSENT, lambda: self.client.head_object(**self._address(key)))

    def _list(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, in their order."""
        with self._client_errors():
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self._prefix)

    def _send_conditionally(self, send: Callable[[], Any]) -> bool:
        """Send a conditional request; return whether its condition held.

        A request that conflicts with a concurrent one is repeated.
        """
        for _ in range(_MAX_ATTEMPTS):
            try:
                send()
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in _PRECONDITION_FAILED:
                    return False
                if code not in _CONFLICT:
                    raise
            else:
                return True
        raise GraftError(f"{self.where}: {_MAX_ATTEMPTS} writes in a row conflicted with another one; try again")

    def _address(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    @contextmanager
    def _client_errors(self) -> Iterator[None]:
        """Turn errors of the client into a `GraftError` that names the settings to check."""
        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise GraftError(
                f"registry {self.where}: {error}. Check deployments/registry.yaml, and "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION in the environment"
            ) from error


def _condition(version: str | None) -> dict[str, str]:
    """The header that makes a write succeed only if the object still has this version, or is still absent (None)."""
    return {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}


def _none_if_code(codes: set[str], request: Callable[[], T]) -> T | None:
    """The response, or None if the server refuses the request with one of these codes."""
    try:
        return request()
    except ClientError as error:
        if error.response["Error"]["Code"] in codes:
            return None
        raise
