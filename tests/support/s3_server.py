"""A real S3 server on loopback: SeaweedFS's `weed mini`, with a key and a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deployments.core.ports import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "only for tests", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "graft"
START_LIMIT_S = 60.0
_PORTS = ("s3.port", "filer.port", "volume.port", "master.port", "admin.port")
_PORTS += tuple(f"{name}.grpc" for name in _PORTS)
_OFF = ("-webdav=false", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0")


@dataclass(frozen=True)
class S3Server:
    """A running S3 server with one bucket."""

    endpoint: str
    """The server's address."""
    environment: dict[str, str]
    """The environment variables with the keys that it accepts."""


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Start a server whose data are in `folder`; the test fails if it does not answer in time."""
    ports = {name: free_port() for name in _PORTS}
    argv = [str(Path(sys.executable).parent / "weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    argv += [*_OFF, *(f"-{name}={port}" for name, port in ports.items())]
    server = S3Server(f"http://127.0.0.1:{ports['s3.port']}", KEYS)
    log = folder / "weed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(argv, env={**os.environ, **KEYS}, cwd=folder, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not _has_bucket(server):
            if time.monotonic() > deadline or process.poll() is not None:
                pytest.fail(f"the S3 server did not start: {log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
            time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()


def _has_bucket(server: S3Server) -> bool:
    """Whether the server accepts writes, which it does later than it answers."""
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        config=config,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=KEYS["AWS_DEFAULT_REGION"],
    )
    try:
        client.create_bucket(Bucket=BUCKET)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            return False
    except BotoCoreError:
        return False
    try:
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
    except (BotoCoreError, ClientError):
        return False
    return True
