from pathlib import Path

import pytest
from support.certificates import Authority
from support.command_line import Cli
from support.daemon import daemon_process

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Certificates of one authority, and a client of another."""
    ours, others = Authority("ours"), Authority("others")
    ours.issue("server").write(tmp_path, "server")
    ours.issue("client").write(tmp_path, "client")
    others.issue("stranger").write(tmp_path, "stranger")
    (tmp_path / "ca.crt").write_bytes(ours.certificate)
    return tmp_path


def test_mutual_tls_lets_just_those_in_that_the_authority_knows(armitage: Cli, files: Path) -> None:
    flags = ["--storage", "memory", "--set", "worker.enabled=false"]
    flags += ["--tls-cert", f"{files}/server.crt", "--tls-key", f"{files}/server.key"]
    flags += ["--tls-client-ca", f"{files}/ca.crt"]
    with daemon_process(files / "d", *flags) as daemon:
        tls = ["--server", f"grpcs://{daemon.target}", "--tls-ca", "ca.crt"]

        known = armitage("status", *tls, "--tls-cert", "client.crt", "--tls-key", "client.key")
        stranger = armitage(
            "status", *tls, "--tls-cert", "stranger.crt", "--tls-key", "stranger.key"
        )
        nameless = armitage("status", *tls)
        unencrypted = armitage("status", "--server", daemon.url)

    assert (known.code, known.err) == (0, "")
    for refused in (stranger, nameless, unencrypted):
        assert refused.code == 4
        assert refused.err.startswith("armitage: no answer from ")


def test_a_server_of_another_authority_is_not_believed(armitage: Cli, files: Path) -> None:
    (files / "other-ca.crt").write_bytes(Authority("third").certificate)
    flags = ["--storage", "memory", "--set", "worker.enabled=false"]
    flags += ["--tls-cert", f"{files}/server.crt", "--tls-key", f"{files}/server.key"]
    with daemon_process(files / "d", *flags) as daemon:
        done = armitage(
            "status", "--server", f"grpcs://{daemon.target}", "--tls-ca", "other-ca.crt"
        )

    assert done.code == 4
    assert done.err.startswith("armitage: no answer from grpcs://")
