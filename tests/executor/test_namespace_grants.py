"""What an action gets of the world because it declares so: files, devices, a network."""

import asyncio
import os
import socket
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support.executing import (
    Bench,
    Exe,
    Link,
    Seen,
    Tree,
    put_tree,
)
from support.sandboxes import open_bench, options_for

from executor.coeffects import Coeffects, FilesystemGrant, NetworkGrant, SandboxKind
from executor.errors import InvalidInput, SandboxUnavailable, WorkerFailure
from executor.evidence import Evidence, Leased, Opened, Reached
from executor.options import ExecutorOptions, LauncherKind
from executor.ports import NetworkSession, NetworkUse
from executor.spec import Devices, Outcome, Work

pytestmark = pytest.mark.sandbox
NETWORK = Coeffects(network=(NetworkGrant("example.com", 443),))


PROGRAMS: Tree = {"busybox": Exe(Path("/bin/busybox").read_bytes()), "sh": Link("busybox")}


async def root_of(bench: Bench, tree: Tree) -> dict[str, str]:
    digest = await put_tree(bench.store, tree)
    return {"rootfs": f"cas:{digest.hash}/{digest.size_bytes}"}


@dataclass
class Session:
    """A NetworkSession that answers each connection with its own address, and names with one."""

    ports: tuple[int, ...] = (3128,)
    redirect: bool = False
    resolver: bool = False
    use: NetworkUse = field(default_factory=lambda: NetworkUse("session-1"))
    environment: dict[str, str] = field(default_factory=lambda: {"http_proxy": "in:3128"})
    files: dict[str, bytes] = field(default_factory=lambda: {"/run/witness/ca.pem": b"authority"})
    sockets: list[socket.socket] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    async def serve(self, listeners: Sequence[socket.socket]) -> None:
        self.sockets = list(listeners)
        loop = asyncio.get_running_loop()
        for one in self.sockets:
            loop.add_reader(one, self._answer, one)

    def _answer(self, one: socket.socket) -> None:
        if one.type == socket.SOCK_DGRAM:
            data, sender = one.recvfrom(512)
            one.sendto(b"name:" + data, sender)
        elif one.type == socket.SOCK_RAW:
            packet = one.recv(65536)
            [port] = struct.unpack_from(">H", packet, (packet[0] & 15) * 4 + 2)
            self.attempts.append(port)
        else:
            connection, _ = one.accept()
            with connection:
                host, port = connection.getsockname()
                connection.sendall(f"{host}:{port}".encode())

    async def close(self) -> NetworkUse:
        loop = asyncio.get_running_loop()
        for one in self.sockets:
            loop.remove_reader(one)
            one.close()
        self.closed.append("closed")
        return self.use


class OneSession:
    """A Network that opens one session, or refuses."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.opened: list[Work] = []

    async def open(self, work: Work) -> NetworkSession:
        self.opened.append(work)
        return self.session


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path.resolve() / "data"
    (directory / "sub").mkdir(parents=True)
    (directory / "f").write_text("granted\n")
    return directory


def evidence_of(outcome: Outcome) -> Evidence:
    assert outcome.evidence is not None
    return outcome.evidence


class TestFiles:
    async def test_granted_directory_is_shown_where_it_is_and_read_only(
        self, options: ExecutorOptions, data: Path
    ) -> None:
        declared = Coeffects(filesystem=(FilesystemGrant(str(data)),))
        async with open_bench(replace(options, filesystem_allow=(str(data),))) as bench:
            outcome = await bench.sh(
                f"cat {data}/f; echo x > {data}/sub/new; ls -A {data.parent}", coeffects=declared
            )

            assert await bench.text(outcome) == "granted\ndata\n"
            assert "Read-only file system" in await bench.errors(outcome)
            assert not (data / "sub/new").exists()
            assert evidence_of(outcome).opened == (Opened(str(data), written=False),)

    async def test_writable_grant_reaches_the_host(
        self, options: ExecutorOptions, data: Path
    ) -> None:
        declared = Coeffects(filesystem=(FilesystemGrant(str(data / "sub"), writable=True),))
        async with open_bench(replace(options, filesystem_allow=(str(data),))) as bench:
            outcome = await bench.sh(f"echo x > {data}/sub/new", coeffects=declared)

            assert outcome.exit_code == 0, await bench.errors(outcome)
            assert (data / "sub/new").read_text() == "x\n"
            assert evidence_of(outcome).opened == (Opened(f"{data}/sub", written=True),)

    async def test_one_grant_shows_nothing_to_the_next_action(
        self, options: ExecutorOptions, data: Path
    ) -> None:
        declared = Coeffects(filesystem=(FilesystemGrant(str(data)),))
        async with open_bench(replace(options, filesystem_allow=(str(data),))) as bench:
            before = await bench.says("ls -A /")
            await bench.sh("true", coeffects=declared)

            assert await bench.says("ls -A /") == before
            assert (await bench.sh(f"ls {data}")).exit_code != 0

    async def test_set_user_bit_and_devices_in_a_grant_are_of_no_use(
        self, options: ExecutorOptions, data: Path
    ) -> None:
        declared = Coeffects(filesystem=(FilesystemGrant(str(data)),))
        try:
            os.mknod(data / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes device nodes")
        async with open_bench(replace(options, filesystem_allow=(str(data),))) as bench:
            script = f"grep ' {data} ' /proc/self/mounts; cat {data}/null"
            outcome = await bench.sh(script, coeffects=declared)

            assert {"nosuid", "nodev"} <= set((await bench.text(outcome)).split()[3].split(","))
            assert "Permission denied" in await bench.errors(outcome)

    async def test_undeclared_or_unallowed_files_are_refused_before_anything_runs(
        self, options: ExecutorOptions, data: Path
    ) -> None:
        declared = Coeffects(filesystem=(FilesystemGrant(str(data)),))
        async with open_bench(options) as bench:
            with pytest.raises(SandboxUnavailable, match="filesystem_allow"):
                await bench.sh("true", coeffects=declared)
            assert bench.leftovers() == []

    async def test_scratch_and_private_directories_are_refused(
        self, options: ExecutorOptions, data: Path
    ) -> None:
        wide = replace(options, filesystem_allow=("/",), private=(data,))
        async with open_bench(wide) as bench:
            for path in (bench.scratch.resolve(), data / "sub"):
                declared = Coeffects(filesystem=(FilesystemGrant(str(path)),))
                with pytest.raises(InvalidInput, match="daemon's own data"):
                    await bench.sh("true", coeffects=declared)

    async def test_input_root_as_filesystem_root_takes_no_grants(
        self, options: ExecutorOptions, data: Path
    ) -> None:
        declared = Coeffects(filesystem=(FilesystemGrant(str(data)),))
        async with open_bench(replace(options, filesystem_allow=(str(data),))) as bench:
            with pytest.raises(InvalidInput, match="filesystem root"):
                await bench.sh("true", coeffects=declared, platform={"chroot-input-root": "true"})


class TestDevices:
    async def test_leased_nodes_files_and_variables_are_there(
        self, options: ExecutorOptions, data: Path
    ) -> None:
        leased = Leased("uuid-1", "a device", 1024, 90)
        devices = Devices((leased,), ("/dev/kmsg",), (str(data / "f"),), (("GPU", "uuid-1"),))
        if not os.access("/dev/kmsg", os.F_OK):
            pytest.skip("no device node to lend")
        async with open_bench(options) as bench:
            outcome = await bench.sh(
                f"stat -c %F /dev/kmsg; cat {data}/f; echo $GPU",
                devices=devices,
                environment={"GPU": "mine"},
            )

            assert await bench.text(outcome) == "character special file\ngranted\nuuid-1\n"
            assert evidence_of(outcome).gpus == (leased,)
            assert (await bench.sh("ls /dev/kmsg")).exit_code != 0

    async def test_drivers_files_in_the_toolchain_may_be_links(
        self, options: ExecutorOptions
    ) -> None:
        """As libcuda.so.1 is in /usr/lib; a mount at a link would be refused."""
        with os.scandir("/usr/bin") as entries:
            link = next(entry.path for entry in entries if entry.is_symlink())
        async with open_bench(options) as bench:
            outcome = await bench.sh("true", devices=Devices((), files=(link,)))

            assert outcome.exit_code == 0


CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connection:
    print(connection.recv(99).decode())
"""
RESOLVE = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(5)
    s.sendto(b"example", ("127.0.0.1", 53))
    print(s.recv(99).decode())
"""


class TestNetwork:
    async def test_without_a_witness_it_is_refused(self, options: ExecutorOptions) -> None:
        async with open_bench(options) as bench:
            with pytest.raises(SandboxUnavailable, match=r"no witness.*storage to disk"):
                await bench.sh("true", coeffects=NETWORK)

    async def test_bubblewrap_gives_none(self, tmp_path: Path) -> None:
        options = options_for(LauncherKind.BUBBLEWRAP, tmp_path / "s")
        network = OneSession(Session())
        async with open_bench(options, network) as bench:
            with pytest.raises(SandboxUnavailable, match="armitage's own launcher"):
                await bench.sh("true", coeffects=NETWORK)
        assert network.opened == []

    async def test_action_without_it_opens_no_session(self, own: ExecutorOptions) -> None:
        network = OneSession(Session())
        async with open_bench(own, network) as bench:
            outcome = await bench.run("python3", "-c", CONNECT, "127.0.0.1", "3128")

            assert "ConnectionRefused" in await bench.errors(outcome)
            assert evidence_of(outcome).network_session == ""
            assert outcome.sandbox["network"] == "none"
        assert network.opened == []

    async def test_session_is_reached_on_its_port_with_its_files_and_variables(
        self, own: ExecutorOptions
    ) -> None:
        use = NetworkUse("s", (Reached("example.com", 443),), ("token",), 2, ("refused: b.com",))
        session = Session(use=use)
        async with open_bench(own, OneSession(session)) as bench:
            outcome = await bench.sh(
                f"python3 -c '{CONNECT}' 127.0.0.1 3128; cat /run/witness/ca.pem;"
                " echo $http_proxy $OWN",
                coeffects=NETWORK,
                environment={"OWN": "own", "http_proxy": "mine"},
            )

            printed = await bench.text(outcome)
            assert printed == "127.0.0.1:3128\nauthoritymine own\n", await bench.errors(outcome)
            evidence = evidence_of(outcome)
            assert evidence.network_session == "s"
            assert evidence.reached == use.reached
            assert evidence.credentials == ("token",)
            assert evidence.dropped == 2
            assert "refused: b.com" in outcome.message
            assert outcome.sandbox["network"] == "witness"
            assert session.closed == ["closed"]
            assert bench.leftovers() == []

    async def test_files_of_a_session_are_seen_in_a_root_filesystem_without_links(
        self, own: ExecutorOptions
    ) -> None:
        files = {"/run/witness/ca.pem": b"authority", "/etc/resolv.conf": b"+resolver"}
        whole: Tree = {"bin": PROGRAMS, "etc": {"own": b"+own"}, "run": {"x": b""}}
        astray: Tree = {"bin": PROGRAMS, "run": Link("/etc")}
        script = "busybox cat /run/witness/ca.pem /etc/resolv.conf /etc/own"
        network = OneSession(Session(files=files))
        async with open_bench(own, network) as bench:
            rootfs = await root_of(bench, whole)
            assert await bench.says(script, coeffects=NETWORK, platform=rootfs) == (
                "authority+resolver+own"
            )
            network.session = refused = Session(files=files)
            rootfs = await root_of(bench, astray)
            with pytest.raises(InvalidInput, match=r"/run of its root filesystem .* symbolic link"):
                await bench.sh(script, coeffects=NETWORK, platform=rootfs)
        assert refused.closed == ["closed"]

    async def test_sockets_are_closed_to_the_host(self, own: ExecutorOptions) -> None:
        async with open_bench(own, OneSession(Session(ports=(3199,)))) as bench:
            seen = Seen()
            async with asyncio.TaskGroup() as group:
                group.create_task(bench.sh("echo; sleep 0.2", coeffects=NETWORK, progress=seen))
                await seen.heard.wait()
                with socket.socket() as probe:
                    assert probe.connect_ex(("127.0.0.1", 3199)) != 0

    async def test_redirect_takes_every_address_on_its_ports_and_sees_the_others(
        self, own: ExecutorOptions
    ) -> None:
        session = Session(ports=(3128, 443), redirect=True, resolver=True)
        script = f"""
python3 -c '{CONNECT}' 198.18.0.7 443
python3 -c '{CONNECT}' 93.184.216.34 443
python3 -c '{RESOLVE}'
python3 -c '{CONNECT}' 127.0.0.1 53
python3 -c '{CONNECT}' 93.184.216.34 8080 2>/dev/null || echo refused
"""
        async with open_bench(own, OneSession(session)) as bench:
            outcome = await bench.sh(script, coeffects=NETWORK)

            assert (await bench.text(outcome)).split() == [
                "198.18.0.7:443",
                "93.184.216.34:443",
                "name:example",
                "127.0.0.1:53",
                "refused",
            ], await bench.errors(outcome)
        assert 8080 in session.attempts

    async def test_session_is_closed_when_the_command_cannot_start(
        self, own: ExecutorOptions
    ) -> None:
        session = Session(ports=(3128, 3128))
        async with open_bench(own, OneSession(session)) as bench:
            with pytest.raises(WorkerFailure, match="port 3128"):
                await bench.sh("true", coeffects=NETWORK)
            assert bench.leftovers() == []
        assert session.closed == ["closed"]


class TestProfile:
    async def test_evidence_names_what_was_applied(self, options: ExecutorOptions) -> None:
        async with open_bench(options) as bench:
            first = await bench.sh("true")
            second = await bench.sh("false")

            evidence = evidence_of(first)
            assert evidence.sandbox is SandboxKind.NAMESPACE
            assert evidence.profile == evidence_of(second).profile
            assert evidence.profile is not None
            text = (await bench.store.get(evidence.profile)).decode()
            assert str(bench.scratch) not in text or options.launcher is LauncherKind.BUBBLEWRAP
            assert '"nested-namespaces":"no"' in text

    async def test_another_grant_is_another_profile(self, own: ExecutorOptions, data: Path) -> None:
        declared = Coeffects(filesystem=(FilesystemGrant(str(data)),))
        async with open_bench(replace(own, filesystem_allow=(str(data),))) as bench:
            plain = await bench.sh("true")
            granted = await bench.sh("true", coeffects=declared)

            assert evidence_of(plain).profile != evidence_of(granted).profile
