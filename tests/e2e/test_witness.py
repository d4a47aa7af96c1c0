"""`armitage witness -- CMD` with real clients, and with commands that try to get out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.origins import Site, put_wheel, serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(100)]
ARMITAGE = [sys.executable, "-m", "armitage"]


@dataclass
class World:
    """A site, and a place for evidence."""

    site: Site
    data: Path

    @property
    def files(self) -> Path:
        return self.site.files

    @property
    def url(self) -> str:
        return self.site.url

    def command(self, *command: str, flags: Sequence[str] = ()) -> list[str]:
        allowed = ["--allow-network", "127.0.0.0/8", "--allow", f"127.0.0.1:{self.site.port}"]
        kept = ["--data-dir", str(self.data), "--authorities", str(self.site.authorities)]
        return [*ARMITAGE, "witness", *kept, *allowed, *flags, "--", *command]

    def run(self, *command: str, flags: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command, flags=flags),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.data.parent,
            timeout=60,
        )

    def fetched(self, *command: str) -> list[tuple[str, str]]:
        """Runs a command that must succeed, and answers what it fetched: path, SHA-256."""
        done = self.run(*command, flags=["--json"])
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stderr.splitlines()[-1])
        return [
            (each["url"].removeprefix(self.url), each["response"]["body"]["sha256"])
            for each in told["exchanges"]
            if each["response"]["status"] == 200
        ]

    def name(self, path: str) -> str:
        return f"sha256:{hashlib.sha256((self.files / path).read_bytes()).hexdigest()}"

    def audit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*ARMITAGE, "audit", *arguments, "--data-dir", str(self.data)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def faults(self) -> list[str]:
        """Verifies all evidence."""
        done = self.audit("verify", "--json")
        faults: list[str] = json.loads(done.stdout)["faults"]
        assert done.returncode == bool(faults), done.stderr
        return faults


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path, "127.0.0.1") as site:
        yield World(site, tmp_path / "evidence")


def test_curl(world: World) -> None:
    (world.files / "a.bin").write_bytes(os.urandom(3_000_000))

    assert world.fetched("curl", "-sS", "-o", "got", f"{world.url}/a.bin") == [
        ("/a.bin", world.name("a.bin"))
    ]
    assert (world.data.parent / "got").read_bytes() == (world.files / "a.bin").read_bytes()
    assert world.faults() == []


def test_rules_and_credentials_come_from_a_configuration(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", "s3cr3t-of-the-registry")
    (world.files / "a.txt").write_text("hello\n")
    file = world.data.parent / "armitage.toml"
    file.write_text(
        '[[witness.rules]]\nverdict = "deny"\nname = "no forks"\npaths = ["/forks"]\n'
        '[witness.credentials.registry]\nhosts = ["127.0.0.1"]\nenvironment = "REGISTRY_TOKEN"\n'
    )
    script = f'test -z "$REGISTRY_TOKEN" && curl -sSf {world.url}/a.txt'
    flags = ["--config", str(file), "--auth", "registry"]

    done = world.run("sh", "-c", script, flags=flags)
    forked = world.run("curl", "-sSf", f"{world.url}/forks/a.txt", flags=flags)

    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert forked.returncode > 0
    assert "no forks denies it" in forked.stderr
    assert [
        b"authorization: Bearer s3cr3t-of-the-registry" in head for head in world.site.heads
    ] == [True]
    kept = [path for path in world.data.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"s3cr3t" in path.read_bytes()]
    assert world.faults() == []


@pytest.mark.skipif(shutil.which("wget") is None, reason="no wget here")
def test_wget(world: World) -> None:
    (world.files / "a.txt").write_text("hello\n")
    command = f'wget -q -O got --ca-certificate="$SSL_CERT_FILE" {world.url}/a.txt'

    assert world.fetched("sh", "-c", command) == [("/a.txt", world.name("a.txt"))]


def test_git(world: World) -> None:
    git = ["git", "-C", str(world.data.parent / "work")]
    subprocess.run(["git", "init", "-q", world.data.parent / "work"], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, *who, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    repository = world.files / "r.git"
    subprocess.run(
        ["git", "clone", "-q", "--bare", world.data.parent / "work", repository], check=True
    )
    subprocess.run(["git", "-C", repository, "update-server-info"], check=True)

    fetched = world.fetched("git", "clone", "-q", f"{world.url}/r.git", "cloned")

    assert ("/r.git/HEAD", world.name("r.git/HEAD")) in fetched
    assert any("/objects/" in path for path, _ in fetched)
    assert (world.data.parent / "cloned" / ".git").is_dir()


def test_pip(world: World) -> None:
    wheel = put_wheel(world.files)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    flags = ["--no-cache-dir", "--no-deps", "--index-url", f"{world.url}/simple/"]

    fetched = world.fetched(*pip, "download", *flags, "demo")

    assert fetched[-1] == (f"/{wheel}", world.name(wheel))
    assert (world.data.parent / Path(wheel).name).is_file()


@pytest.mark.parametrize(
    "attempt",
    [
        "curl -sS --noproxy '*' {url}/a",
        "python3 -c \"import socket; socket.create_connection(('127.0.0.1', {port}), 2)\"",
        "python3 -c \"import socket; socket.create_connection(('1.1.1.1', 53), 2)\"",
        "python3 -c \"import socket; socket.socket(2, 2).sendto(b'x', ('1.1.1.1', 53))\"",
        "nsenter -t {pid} -n true",
        "nsenter --net=/proc/{pid}/ns/net true",
        "unshare -r nsenter -t {pid} -n true",
        "ip link add v type veth peer name w netns {pid}",
        "getent hosts example.org",
    ],
)
def test_there_is_no_other_way_out(world: World, attempt: str) -> None:
    tool = attempt.split(maxsplit=1)[0]
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} here")
    script = attempt.format(url=world.url, port=world.site.port, pid=os.getpid())

    done = world.run("sh", "-c", f"if {script}; then exit 66; else exit 7; fi")

    assert done.returncode == 7, done.stderr


def test_clients_that_know_of_no_proxy_are_caught(world: World) -> None:
    (world.files / "a").write_text("hello\n")
    place = f"localhost:{world.site.port}"
    caught = f"--resolve {place}:198.18.9.9 https://{place}/a"
    script = (
        f"curl -sS --noproxy '*' {caught}; curl -sS --noproxy '*' http://1.2.3.4:81/;"
        " curl -sS --noproxy '*' https://evil.example/; true"
    )
    flags = ["--transparent", "--json", "--allow", place]

    done = world.run("sh", "-c", script, flags=flags)

    assert done.stdout == "hello\n"
    told = json.loads(done.stderr.splitlines()[-1])["exchanges"]
    assert [(each["method"], each["url"], each["decision"]["rule"]) for each in told] == [
        ("GET", f"https://{place}/a", "allow-network"),
        ("CONNECT", "tcp://1.2.3.4:81", "port"),
        ("LOOKUP", "dns:evil.example", "undeclared"),
    ]
    assert world.faults() == []


def test_a_refusal_is_explained_where_people_look(world: World) -> None:
    done = world.run("curl", "-sS", "https://other.example/x")

    assert (
        "the action does not declare other.example:443; add network:other.example:443"
        in done.stdout
    )
    assert "refused" in done.stderr
    assert "witnessed 0 fetches and 1 refusals" in done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["nowhere"], 127),
    ],
)
def test_the_exit_code_is_the_commands(world: World, command: list[str], code: int) -> None:
    assert world.run(*command, flags=["--quiet"]).returncode == code
    assert world.faults() == []


def test_two_at_once_do_not_share_evidence(world: World) -> None:
    first = subprocess.Popen(world.command("curl", "-sS", f"{world.url}/stall"))
    world.site.stall.wait()
    second = world.run("true")
    first.send_signal(signal.SIGKILL)
    first.wait()

    assert second.returncode == 125
    assert second.stderr.startswith("armitage: ")
    assert "is in use by process" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_what_was_cut_off_shows_and_the_log_goes_on(world: World) -> None:
    first = subprocess.Popen(world.command("curl", "-sS", f"{world.url}/stall"))
    world.site.stall.wait()
    first.send_signal(signal.SIGKILL)
    first.wait()

    assert world.run("true").returncode == 0
    [fault] = world.faults()
    assert fault.endswith("was not closed: it runs still, or was cut off")


def test_nobody_else_can_read_the_evidence(world: World) -> None:
    world.run("true")

    modes: dict[str, Any] = {
        path.name: path.stat().st_mode & 0o077 for path in world.data.iterdir()
    }
    assert world.data.stat().st_mode & 0o077 == 0
    assert modes["log.key"] == 0


def test_an_audit_tells_what_was_fetched(world: World) -> None:
    (world.files / "a").write_text("hello\n")
    world.run("sh", "-c", f"curl -sS {world.url}/a; curl -sS {world.url}/b -d x; true")

    listed = world.audit("log").stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [
        ["LOG", "STATUS"],
        ["1", "200"],
        ["2", "refused"],
    ]
    refused = json.loads(world.audit("log", "--refused", "--json").stdout)
    assert [each["index"] for each in refused] == [2]
    digest = world.name("a").removeprefix("sha256:")
    found = json.loads(world.audit("log", "--digest", digest[:8], "--json").stdout)
    assert [each["url"] for each in found] == [f"{world.url}/a"]
    assert json.loads(world.audit("log", "--host", "other.example", "--json").stdout) == []
    shown = json.loads(world.audit("show", "1").stdout)
    assert shown["record"]["response"]["body"]["sha256"] == world.name("a")
    assert shown["receipt"].startswith("c2sp.org/tlog-proof@v1\nindex 1\n")
    assert "none at 9" in world.audit("show", "9").stderr
    assert world.audit("verify").stdout.endswith(
        "2 exchanges, 1 bodies with 6 B: all as it was signed\n"
    )


def test_a_body_that_was_changed_shows(world: World) -> None:
    (world.files / "a").write_bytes(b"hello " * 100_000)
    world.run("curl", "-sS", "-o", "/dev/null", f"{world.url}/a")
    [stored] = [path for path in (world.data / "cas" / "blobs").rglob("*") if path.is_file()]
    content = bytearray(stored.read_bytes())
    content[1000] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(content)

    [fault] = world.faults()

    assert fault == f"entry 1: the body of {world.url}/a is gone or damaged"


def test_no_secret_is_kept(world: World) -> None:
    (world.files / "a").write_text("hello\n")
    secret = "correct-horse-battery"
    command = (
        f"curl -sS -u u:{secret} -H 'Cookie: s={secret}' -H 'X-Api-Key: {secret}'"
        f" -H 'Authorization: Bearer {secret}' '{world.url}/a?token={secret}&q={secret}#{secret}';"
        f" curl -sS https://u:{secret}@127.0.0.1:{world.site.port}/a; curl -sS {world.url}/a -d"
        f" {secret};"
        f" curl -sS '{world.url}/a?{secret}'; curl -sS -A 'Bearer {secret}' {world.url}/a"
    )

    done = world.run("sh", "-c", command)

    assert secret not in done.stderr
    assert secret not in world.audit("log", "--json").stdout
    for path in world.data.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_where_nothing_was_kept_an_audit_says_so(world: World) -> None:
    done = world.audit("verify")

    assert (done.returncode, done.stdout) == (2, "")
    assert "no evidence is kept there" in done.stderr
