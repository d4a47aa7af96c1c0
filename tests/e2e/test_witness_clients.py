"""Clients of package registries, each as it comes: witnessed, then again without any origin, with
the same result, and refused in words.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.origins import HOST, Site, put_wheel, serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(100)]
ARMITAGE = [sys.executable, "-m", "armitage"]


@dataclass
class World:
    """A site, and a place for evidence; each run of a client has a directory of its own."""

    site: Site
    directory: Path
    runs: int = 0

    def run(self, script: str, *flags: str, refuse: bool = False) -> tuple[Path, str]:
        """Runs a shell script under the witness; answers its directory and what was said."""
        self.runs += 1
        place = self.directory / f"run-{self.runs}"
        place.mkdir()
        allowed = "other.example" if refuse else f"{HOST}:{self.site.port}"
        command = [
            *(*ARMITAGE, "witness", "--data-dir", str(self.directory / "evidence")),
            *("--authorities", str(self.site.authorities), "--allow-network", "127.0.0.0/8"),
            *("--resolve", f"{HOST}:127.0.0.1", "--allow", allowed, *flags),
            *("--", "sh", "-ec", script),
        ]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "URL": self.site.url,
            "LC_ALL": "C",
            "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup")),
        }
        done = subprocess.run(
            command,
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode != 0) is refuse, done.stdout + done.stderr
        return place, done.stdout + done.stderr

    def faults(self) -> list[str]:
        command = [*ARMITAGE, "audit", "verify", "--json", "--data-dir"]
        done = subprocess.run(
            [*command, str(self.directory / "evidence")],
            capture_output=True,
            text=True,
            check=False,
        )
        faults: list[str] = json.loads(done.stdout)["faults"]
        return faults


@contextmanager
def world_of(directory: Path, lay_out: Callable[[Path, str], None]) -> Iterator[World]:
    with serving(directory / "site") as site:
        lay_out(site.files, site.url)
        yield World(site, directory)


def curl(files: Path, _: str) -> None:
    (files / "a").write_bytes(b"hello\n" * 50_000)


def wheel(files: Path, _: str) -> None:
    put_wheel(files)


def package(files: Path, url: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as made:
        data = b'{"name": "demo", "version": "1.0.0"}'
        info = tarfile.TarInfo("package/package.json")
        info.size = len(data)
        made.addfile(info, io.BytesIO(data))
    (files / "npm").mkdir()
    (files / "demo.tgz").write_bytes(packed.getvalue())
    integrity = f"sha512-{b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()}"
    version = {
        "name": "demo",
        "version": "1.0.0",
        "dist": {"tarball": f"{url}/demo.tgz", "integrity": integrity},
    }
    packument = {"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    (files / "npm" / "demo").write_text(json.dumps(packument))


def module(files: Path, _: str) -> None:
    folder = files / "go" / "example.org" / "demo" / "@v"
    folder.mkdir(parents=True)
    (folder / "v1.0.0.info").write_text('{"Version": "v1.0.0", "Time": "2024-01-01T00:00:00Z"}')
    (folder / "v1.0.0.mod").write_text("module example.org/demo\n")
    with zipfile.ZipFile(folder / "v1.0.0.zip", "w") as made:
        made.writestr("example.org/demo@v1.0.0/go.mod", "module example.org/demo\n")
        made.writestr("example.org/demo@v1.0.0/demo.go", "package demo\n")


def debian(files: Path, _: str) -> None:
    folder = files / "deb"
    folder.mkdir()
    data = b"!<arch>\nnot really\n"
    (folder / "demo_1.0_all.deb").write_bytes(data)
    (folder / "Packages").write_text(
        "Package: demo\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@example.org>\n"
        f"Filename: ./demo_1.0_all.deb\nSize: {len(data)}\n"
        f"SHA256: {hashlib.sha256(data).hexdigest()}\nDescription: demo\n"
    )


def crate(files: Path, url: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as made:
        manifest = b'[package]\nname = "demo"\nversion = "1.0.0"\nedition = "2018"\n'
        for name, data in (("Cargo.toml", manifest), ("src/lib.rs", b"")):
            info = tarfile.TarInfo(f"demo-1.0.0/{name}")
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    (files / "index" / "de" / "mo").mkdir(parents=True)
    (files / "crates").mkdir()
    (files / "crates" / "demo-1.0.0").write_bytes(packed.getvalue())
    told = {"dl": f"{url}/crates/{{crate}}-{{version}}"}
    (files / "index" / "config.json").write_text(json.dumps(told))
    entry = {
        "name": "demo",
        "vers": "1.0.0",
        "deps": [],
        "cksum": hashlib.sha256(packed.getvalue()).hexdigest(),
        "features": {},
        "yanked": False,
    }
    (files / "index" / "de" / "mo" / "demo").write_text(json.dumps(entry) + "\n")


def repository(files: Path, _: str) -> None:
    work = files.parent / "work"
    git = ["git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", "-b", "main", work], check=True)
    (work / "file").write_text("hello\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", work, files / "r.git"], check=True)


APT = """
mkdir -p lists/partial archives/partial
echo "deb [trusted=yes] $URL/deb ./" > sources
apt="apt-get -qq -o APT::Sandbox::User=root -o Dir::State::Lists=$PWD/lists
 -o Dir::Etc::SourceList=$PWD/sources -o Dir::Etc::SourceParts=/dev/null
 -o Dir::Cache=$PWD -o Dir::Cache::Archives=$PWD/archives -o Acquire::Languages=none
 -o Dir::State::Status=/dev/null -o Acquire::Retries=0 -o APT::Update::Error-Mode=any"
$apt update; $apt download demo
"""
CARGO = """
mkdir src; touch src/lib.rs
printf '[package]\\nname = "x"\\nversion = "1.0.0"\\n[dependencies]\\ndemo = "1"\\n' > Cargo.toml
mkdir .cargo; cat > .cargo/config.toml <<EOF
[source.crates-io]
replace-with = "here"
[source.here]
registry = "sparse+$URL/index/"
[net]
retry = 0
EOF
CARGO_HOME=$PWD/home cargo fetch -q
cp home/registry/cache/*/demo-1.0.0.crate got
"""
PIP = (
    f"{sys.executable} -m pip --disable-pip-version-check -q download --no-cache-dir --no-deps"
    " --retries 0 --index-url $URL/simple/ demo"
)
NPM = (
    "npm install --no-audit --no-fund --no-update-notifier --fetch-retries 0 --registry $URL/npm/"
    " --cache $PWD/cache demo"
)
GO = (
    "GOPROXY=$URL/go GOSUMDB=off GOFLAGS=-modcacherw GOPATH=$PWD/path GOTOOLCHAIN=local"
    " go mod download -x example.org/demo@v1.0.0;"
    " cp path/pkg/mod/cache/download/example.org/demo/@v/v1.0.0.zip got"
)
CURL = "curl -sS --fail-with-body -o got $URL/a || { cat got; exit 1; }"
WGET = "wget -q --tries 1 --content-on-error -O got $URL/a || { cat got; exit 1; }"
CLIENTS = {
    "curl": (curl, CURL, "got"),
    "wget": (curl, WGET, "got"),
    "git": (repository, "git clone -q $URL/r.git cloned", "cloned/file"),
    "pip": (wheel, PIP, "demo-1.0-py3-none-any.whl"),
    "npm": (package, NPM, "node_modules/demo/package.json"),
    "go": (module, GO, "got"),
    "apt-get": (debian, APT, "demo_1.0_all.deb"),
    "cargo": (crate, CARGO, "got"),
}


INSTALLED = {"curl", "wget", "git", "apt-get", "go"}
"""What scripts/test sees to; npm, cargo and Java are tried where they happen to be."""


def skip_without(client: str) -> None:
    """pip comes with the environment."""
    if client != "pip" and shutil.which(client) is None:
        remedy = f" (apt-get install {client})" if client in INSTALLED else ""
        pytest.skip(f"no {client} here{remedy}")


@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_fetched_once_is_fetched_again_without_any_origin(
    tmp_path: Path, client: str
) -> None:
    skip_without(client)
    lay_out, script, result = CLIENTS[client]
    with world_of(tmp_path, lay_out) as world:
        place, _ = world.run(script)
        first = (place / result).read_bytes()
    # The origin is gone now.
    place, said = world.run(script, "--offline")

    assert (place / result).read_bytes() == first
    assert " 0 refusals" in said or client in {"apt-get", "go"}
    assert world.faults() == []


@pytest.mark.parametrize("client", ["curl", "wget", "git", "pip", "npm"])
def test_a_refusal_is_explained_where_the_client_says_why(tmp_path: Path, client: str) -> None:
    skip_without(client)
    lay_out, script, _ = CLIENTS[client]
    with world_of(tmp_path, lay_out) as world:
        _, said = world.run(script, refuse=True)

    where = f"{HOST}:{world.site.port}"
    assert f"the action does not declare {where}; add network:{where} to its coeffects" in said


def test_java_can_read_the_authority(tmp_path: Path) -> None:
    if shutil.which("keytool") is None:
        pytest.skip("no keytool here")
    script = (
        "store=$(echo $JAVA_TOOL_OPTIONS | sed 's/.*trustStore=\\([^ ]*\\).*/\\1/');"
        " unset JAVA_TOOL_OPTIONS; keytool -list -storepass changeit -keystore $store"
    )
    with world_of(tmp_path, curl) as world:
        _, said = world.run(script)

    assert "trustedCertEntry" in said


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (apt-get install curl)")
def test_a_standing_proxy_knows_its_users(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("ann:s3cr3t-of-ann\n")
    (tmp_path / "users").chmod(0o600)
    data = tmp_path / "evidence"
    with world_of(tmp_path, curl) as world:
        command = [
            *(*ARMITAGE, "proxy", "--json", "--users", str(tmp_path / "users")),
            *("--listen", "127.0.0.1:0", "--data-dir", str(data)),
            *("--authorities", str(world.site.authorities), "--allow-network", "127.0.0.0/8"),
            *("--resolve", f"{HOST}:127.0.0.1"),
        ]
        proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert proxy.stdout is not None
        with proxy.stdout:
            told = json.loads(proxy.stdout.readline())
        fetch = ["curl", "-sS", "--cacert", told["authority"], f"{world.site.url}/a"]
        found = {
            user: subprocess.run(
                [*fetch, "-x", f"http://{user}@{told['address']}"], capture_output=True, check=False
            )
            for user in ("ann:s3cr3t-of-ann", "ann:wrong")
        }
        proxy.terminate()
        assert proxy.wait(20) == 0

    assert found["ann:s3cr3t-of-ann"].stdout == (world.site.files / "a").read_bytes()
    assert b"407" in found["ann:wrong"].stderr
    assert world.faults() == []
