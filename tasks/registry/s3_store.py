"""A registry's store in S3, or in what speaks its protocol: conditional writes there, checked copies here.

Small objects are written with If-None-Match or If-Match. A folder is its files under one prefix,
the file that makes it whole last. Engines open packages from local folders, so what is read is
fetched into the cache once. Credentials and region come from the environment (`AWS_*`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.core.errors import GraftError
from tasks.core.files import sha256_file
from tasks.registry.folder_store import Check, StoredObject, keep_folder

T = TypeVar("T")
PART_BYTES = 64 * 1024 * 1024
"""A larger file is sent in parts of so many bytes (S3 takes 10,000 parts of 5 MiB or more)."""
_READERS = 8
_TRIES = 5
_ABSENT = {"404", "NoSuchKey"}
_REFUSED = {"412", "PreconditionFailed"}
_AT_ONCE = {"409", "ConditionalRequestConflict"}


class S3Store:
    """A store under a prefix of a bucket.

    Args:
        location: `s3://BUCKET` or `s3://BUCKET/PREFIX`.
        endpoint: the server's address, or None for AWS.
        cache: the folder for fetched copies, laid out as a registry in a folder is.
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
            # Servers other than AWS's know neither checksums in trailers nor buckets as host names.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if endpoint else "auto"},
        )
        with self._told():
            # A session of its own: the shared one keeps the keys that it saw first.
            self.client: Any = boto3.Session().client("s3", endpoint_url=endpoint, config=config)

    def read(self, key: str) -> StoredObject | None:
        with self._told():
            found = _unless(_ABSENT, lambda: self.client.get_object(**self._at(key)))
            return StoredObject(found["Body"].read(), found["ETag"]) if found else None

    def write(self, key: str, content: bytes, expected: str | None) -> bool:
        condition = _condition(expected)
        with self._told():
            return self._settled(lambda: self.client.put_object(**self._at(key), Body=content, **condition))

    def read_all(self, prefix: str) -> list[bytes]:
        keys = list(self._list(prefix))
        with ThreadPoolExecutor(_READERS) as readers:
            return [stored.content for stored in readers.map(self.read, keys) if stored]

    def put_folder(self, key: str, source: Path, last: str) -> None:
        """Upload the files that are not there yet, `last` at the end, and keep a copy: it is served here next."""
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
        found = (name.removeprefix(f"{key}/").split("/") for name in self._list(f"{key}/"))
        return sorted(parts[0] for parts in found if parts[1:] == [last])

    def _fetch(self, key: str, folder: Path, check: Check, at: datetime) -> None:
        """Download a folder and check it; it bears the time of its upload."""
        for name in self._list(f"{key}/"):
            path = folder / name.removeprefix(f"{key}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            sha256 = (self._head(name) or {"Metadata": {}})["Metadata"].get("sha256")
            with self._told():
                self.client.download_file(self._bucket, self._prefix + name, str(path))
            if sha256 and sha256_file(path) != sha256:
                raise GraftError(f"{self.where}: {name} is not what was uploaded, so it is not used")
        check(folder)
        os.utime(folder, (at.timestamp(), at.timestamp()))

    def _put_file(self, key: str, path: Path) -> None:
        """Upload a file, unless it is there. What an upload that was broken off left is replaced.

        Raises:
            GraftError: someone else is uploading another file under this key.
        """
        sha256, there = sha256_file(path), self._head(key)
        if there and there["Metadata"].get("sha256") == sha256:
            return
        condition, metadata = _condition(there["ETag"] if there else None), {"sha256": sha256}
        with self._told():
            sent = self._settled(lambda: self._send(key, path, condition, metadata))
        if not sent and (self._head(key) or {"Metadata": {}})["Metadata"].get("sha256") != sha256:
            raise GraftError(f"{self.where}: someone else is publishing another {key} just now; try again")

    def _send(self, key: str, path: Path, condition: dict[str, str], metadata: dict[str, str]) -> None:
        with path.open("rb") as file:
            if path.stat().st_size <= PART_BYTES:
                self.client.put_object(**self._at(key), Body=file, Metadata=metadata, **condition)
                return
            upload = self.client.create_multipart_upload(**self._at(key), Metadata=metadata)["UploadId"]
            try:
                parts = []
                for number, part in enumerate(iter(lambda: file.read(PART_BYTES), b""), 1):
                    sent = self.client.upload_part(**self._at(key), UploadId=upload, PartNumber=number, Body=part)
                    parts.append({"PartNumber": number, "ETag": sent["ETag"]})
                whole = {"Parts": parts}
                self.client.complete_multipart_upload(
                    **self._at(key), UploadId=upload, MultipartUpload=whole, **condition
                )
            except BaseException:
                self.client.abort_multipart_upload(**self._at(key), UploadId=upload)
                raise

    def _head(self, key: str) -> dict[str, Any] | None:
        with self._told():
            return _unless(_ABSENT, lambda: self.client.head_object(**self._at(key)))

    def _list(self, prefix: str) -> Iterator[str]:
        """Keys below a prefix, in their order."""
        with self._told():
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self._prefix)

    def _settled(self, send: Callable[[], Any]) -> bool:
        """Whether a conditional request was let through; one that met another one is sent again."""
        for _ in range(_TRIES):
            try:
                send()
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in _REFUSED:
                    return False
                if code not in _AT_ONCE:
                    raise
            else:
                return True
        raise GraftError(f"{self.where}: {_TRIES} writes in a row met another one; try again")

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong is told as one sentence, with what to look at."""
        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise GraftError(
                f"registry {self.where}: {error}. Look at deployments/registry.yaml, and at "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION in the environment"
            ) from error


def _condition(version: str | None) -> dict[str, str]:
    """The header that lets a write through only if the object is still this version, or still absent."""
    return {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}


def _unless(codes: set[str], ask: Callable[[], T]) -> T | None:
    """The answer, or None where the server's refusal has one of these codes."""
    try:
        return ask()
    except ClientError as error:
        if error.response["Error"]["Code"] in codes:
            return None
        raise
