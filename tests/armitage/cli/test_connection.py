import socket
from pathlib import Path

import pytest
from support.command_line import Cli
from support.daemon import DaemonProcess


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"grpc://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["status"], 4),
        (["cas", "stat", f"{'0' * 64}/1"], 4),
        (["ac", "get", f"{'0' * 64}/1"], 4),
        (["ops", "list"], 4),
        (["conformance"], 4),
        (["run", "--", "true"], 125),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_server_that_does_not_answer_is_named_with_a_hint(
    armitage: Cli, nobody: str, command: list[str], code: int
) -> None:
    at = command.index("--") if "--" in command else len(command)

    done = armitage(*command[:at], "--server", nobody, *command[at:])

    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"armitage: no answer from {nobody}: ")
    assert done.err.endswith("(scripts/up or armitage serve starts one)\n")
    assert done.err.count("\n") == 1


def test_the_server_comes_from_flag_environment_or_default(
    armitage: Cli, daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARMITAGE_SERVER", "grpc://127.0.0.1:1")
    assert armitage("status").code == 4
    assert armitage("status", "--server", daemon.url).code == 0
    monkeypatch.setenv("ARMITAGE_SERVER", daemon.url)
    assert armitage("status").code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--server", "http://x"], "'http://x' is not a server address; write grpc://HOST:PORT "),
        (["--tls-ca", "ca.pem"], "TLS files are given, but grpc://127.0.0.1:8980 is plain; "),
        (["--server", "grpcs://x", "--tls-ca", "ca.pem"], "ca.pem: cannot be read: No such file"),
    ],
)
def test_flags_that_cannot_be_are_explained(armitage: Cli, flags: list[str], message: str) -> None:
    done = armitage("status", *flags)

    assert done.code == 2
    assert done.err.startswith(f"armitage: {message}")


def test_an_unknown_instance_is_named(online: Cli) -> None:
    done = online("cas", "stat", "--instance", "other", f"{'0' * 64}/1")

    assert done.code == 1
    assert "instance 'other' is not here" in done.err


def test_status_says_what_the_server_offers(
    online: Cli, daemon: DaemonProcess, tmp_path: Path
) -> None:
    done = online("status")

    assert done.code == 0
    assert done.out == (
        f"server            {daemon.url}\n"
        "health            serving\n"
        "executes          yes\n"
        "API               2.0 to 2.13\n"
        "digest functions  sha256, blake3, sha1, sha384, sha512\n"
        "compressors       zstd, deflate, brotli\n"
        "batches           up to 3.8 MiB\n"
        "blobs             up to any size\n"
        "results           writable\n"
    )
