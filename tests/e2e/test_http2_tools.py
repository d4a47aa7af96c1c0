"""HTTP/2 tools that know nothing of gRPC, against a daemon: nghttp, h2load, curl and h2spec."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from support import go
from support.certificates import Authority
from support.daemon import DaemonProcess, daemon_process
from support.http2 import message
from support.transports import Transport

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
CHECK = "grpc.health.v1.Health/Check"
SERVING = message(b"\x08\x01")

# What h2spec 2.2 (of RFC 7540) asks and a gRPC server of RFC 9113 answers otherwise.
DEVIATIONS = {
    "http2/5.3.1.1": "RFC 9113 took priorities out: a stream may name itself",
    "http2/5.3.1.2": "RFC 9113 took priorities out: a stream may name itself",
    "http2/6.10.1": "its header table outgrows the 0 bytes that we settle on",
    "generic/5.14": "its header table outgrows the 0 bytes that we settle on",
    "generic/5.15": "its header table outgrows the 0 bytes that we settle on",
}


def need(tool: str, package: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not on PATH (Debian: apt-get install {package})")


@pytest.fixture(scope="module")
def daemon(
    transport: Transport, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("daemon")
    with daemon_process(directory, "--storage", "memory", *transport.flags) as running:
        yield running


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "request"
    path.write_bytes(message(b""))
    return path


def _run(*command: str | Path, data: bytes | None = None) -> bytes:
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nghttp_calls_and_sees_the_trailers(daemon: DaemonProcess, body: Path) -> None:
    need("nghttp", "nghttp2-client")
    headers = ("-Hcontent-type: application/grpc", "-Hte: trailers", "-H:method: POST")

    said = _run("nghttp", "-v", *headers, "-d", body, f"http://{daemon.target}/{CHECK}").decode(
        errors="replace"
    )

    assert re.search(r":status: 200", said)
    assert re.search(r"grpc-status: 0", said)


def test_nghttp_pads_and_continues_header_blocks(
    daemon: DaemonProcess, transport: Transport, body: Path
) -> None:
    need("nghttp", "nghttp2-client")
    if transport.name == "grpcio":
        pytest.skip("grpc's C core takes the padding of HEADERS for header fields")
    headers = ["-Hcontent-type: application/grpc", "-Hte: trailers", "-H:method: POST"]
    headers += [f"-Hx-{number}: {'y' * 3000}" for number in range(10)]

    said = _run(
        *("nghttp", "-v", "--padding=200", *headers),
        *("-d", body, f"http://{daemon.target}/{CHECK}"),
    ).decode(errors="replace")

    assert "PADDED" in said
    assert re.search(r"grpc-status: 0", said)


def test_h2load_gets_every_answer(daemon: DaemonProcess, body: Path) -> None:
    need("h2load", "nghttp2-client")

    said = _run(
        *("h2load", "-n", "4000", "-c", "8", "-m", "16", "-d", body),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://{daemon.target}/{CHECK}",
    ).decode()

    assert "4000 succeeded, 0 failed, 0 errored" in said
    assert f"({4000 * len(SERVING)}) data" in said


def test_curl_with_prior_knowledge_gets_the_message(daemon: DaemonProcess, body: Path) -> None:
    need("curl", "curl")

    said = _run(
        *("curl", "-sS", "--http2-prior-knowledge", "--data-binary", f"@{body}"),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://{daemon.target}/{CHECK}",
    )

    assert said == SERVING


def test_curl_without_grpc_is_told_so(daemon: DaemonProcess, transport: Transport) -> None:
    need("curl", "curl")
    if transport.name == "grpcio":
        pytest.skip("grpcio answers what is not gRPC with a gRPC status, and HTTP/1 not at all")
    url = f"http://{daemon.target}/"

    for version in ("--http2-prior-knowledge", "--http1.1"):
        said = _run("curl", "-sS", "-w", "%{http_code}", version, url).decode()
        assert "gRPC" in said
        assert said[-3] == "4"


def test_curl_over_tls_agrees_on_h2(transport: Transport, tmp_path: Path, body: Path) -> None:
    need("curl", "curl")
    authority = Authority()
    trusted = tmp_path / "authority.crt"
    trusted.write_bytes(authority.certificate)
    certificate, key = authority.issue("server").write(tmp_path, "server")
    flags = ("--tls-cert", str(certificate), "--tls-key", str(key), "--storage", "memory")

    with daemon_process(tmp_path / "daemon", *flags, *transport.flags) as running:
        said = _run(
            *("curl", "-sS", "--http2", "--cacert", trusted, "--data-binary", f"@{body}"),
            *("-w", "%{http_version}", "-H", "content-type: application/grpc"),
            *("-H", "te: trailers", f"https://{running.target}/{CHECK}"),
        )

    assert said == SERVING + b"2"


def test_h2spec_finds_no_other_deviations_than_the_documented(
    daemon: DaemonProcess, transport: Transport, tmp_path: Path
) -> None:
    """docs/conformance.md has the result."""
    if missing := go.unavailable():
        pytest.skip(missing)
    if transport.name == "grpcio":
        pytest.skip("grpc's C core fails most of them, at a timeout each")
    host, port = daemon.target.split(":")
    report = tmp_path / "h2spec.xml"

    subprocess.run(
        [go.H2SPEC, "-h", host, "-p", port, "-o", "2", "-j", report],
        capture_output=True,
        timeout=100,
        check=False,
    )

    failed, passed = set(), 0
    for suite in ET.parse(report).iter("testsuite"):
        for number, case in enumerate(suite.iter("testcase"), 1):
            if case.find("failure") is not None or case.find("error") is not None:
                failed.add(f"{suite.get('package')}.{number}")
            elif case.find("skipped") is None:
                passed += 1
    assert failed == set(DEVIATIONS)
    assert passed > 130
