"""Bazel has an external archive fetched by the daemon (--experimental_remote_downloader), and the
daemon has it on record.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bazel import Bazel
from support.daemon import ServedDaemon

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(200),
    pytest.mark.skipif(
        shutil.which("bazel") is None,
        reason="bazel is not on PATH (Debian: apt-get install bazel-bootstrap)",
    ),
]

SETTINGS = """
[witness.fetch]
hosts = ["127.0.0.1"]
[[witness.rules]]
verdict = "allow"
name = "loopback"
methods = ["GET"]
networks = ["127.0.0.0/8"]
"""
WORKSPACE = """
load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive")

http_archive(
    name = "lib",
    build_file_content = 'exports_files(["text"])',
    sha256 = "{sha256}",
    strip_prefix = "lib-1.0",
    urls = ["{url}/lib-1.0.tar.gz"],
)
"""
BUILD = """
genrule(name = "copy", srcs = ["@lib//:text"], outs = ["out"], cmd = "cp $< $@")
"""


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    files, asked = tmp_path / "files", list[str]()
    files.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(files))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", files, asked
        finally:
            server.shutdown()
            thread.join()


def test_an_archive_is_fetched_by_the_daemon_once_and_is_on_record(
    tmp_path: Path, origin: tuple[str, Path, list[str]]
) -> None:
    url, files, asked = origin
    text = b"what is in the archive\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as made:
        info = tarfile.TarInfo("lib-1.0/text")
        info.size = len(text)
        made.addfile(info, io.BytesIO(text))
    (files / "lib-1.0.tar.gz").write_bytes(packed.getvalue())
    hashed = hashlib.sha256(packed.getvalue()).hexdigest()
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "WORKSPACE").write_text(WORKSPACE.format(sha256=hashed, url=url))
    (workspace / "BUILD").write_text(BUILD)

    client = Bazel(workspace, tmp_path / "state")
    try:
        with ServedDaemon(tmp_path / "daemon", settings=SETTINGS) as daemon:
            flags = [
                f"--remote_cache=grpc://{daemon.address}",
                f"--experimental_remote_downloader=grpc://{daemon.address}",
            ]
            build = client.build(*flags, "//:copy")
            assert build.status == 0, build.log
            assert client.output("out").read_bytes() == text
    finally:
        client.close()

    assert asked == ["/lib-1.0.tar.gz"]
    audit = [sys.executable, "-m", "armitage", "audit"]
    record = ["--data-dir", str(tmp_path / "daemon" / "data" / "record")]
    flags = ["log", "--json", "--digest", hashed]
    done = subprocess.run([*audit, *flags, *record], capture_output=True, text=True, check=True)
    [fetched] = json.loads(done.stdout)
    assert fetched["url"] == f"{url}/lib-1.0.tar.gz"
