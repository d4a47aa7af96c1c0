"""Actions in guests, really booted; what every executor promises is in tests/contracts.

Without KVM a guest takes some seconds to boot, so each test sees as much as it can of one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import SHA256, Bench, Exe, JsonCodec, Link, Seen, Tree, get_tree, put_tree
from support.microvm import (
    PortlessQemu,
    firecracker_missing,
    machine_options,
    make_toolchain,
    microvm_missing,
)
from support.networks import networks
from support.witnessed import Origin, answering

from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.coeffects import Coeffects, FilesystemGrant, GpuGrant, NetworkGrant, SandboxKind
from executor.errors import InvalidInput, SandboxUnavailable, TimedOut
from executor.evidence import Reached
from executor.microvm import means
from executor.microvm.executor import MicrovmExecutor
from executor.microvm.machine import MachineKind
from executor.options import ExecutorOptions
from executor.paths import BUILD_ROOT
from executor.ports import Network
from executor.spec import Work

MISSING, NO_FIRECRACKER = microvm_missing(), firecracker_missing()
BUSYBOX = b"" if MISSING else Path("/bin/busybox").read_bytes()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


@pytest.fixture(scope="module")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toolchain(tmp_path_factory.mktemp("toolchain"))


@pytest.fixture(
    params=[
        "qemu",
        "portless",
        pytest.param(
            "firecracker",
            marks=pytest.mark.skipif(bool(NO_FIRECRACKER), reason=NO_FIRECRACKER),
        ),
    ]
)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MachineKind:
    """Each machine, and a stand-in for what Firecracker's guests do otherwise."""
    if request.param == "portless":
        qemu = shutil.which("qemu-system-x86_64")
        assert qemu is not None
        monkeypatch.setattr(means, "find_machine", lambda _: PortlessQemu(qemu))
        return MachineKind.QEMU
    return MachineKind(request.param)


@asynccontextmanager
async def open_bench(
    directory: Path,
    toolchain: Path,
    network: Network | None = None,
    machine: MachineKind = MachineKind.QEMU,
) -> AsyncIterator[Bench]:
    store = MemoryStore()
    executor = MicrovmExecutor(
        store,
        JsonCodec(),
        ExecutorOptions(scratch=directory / "scratch", max_timeout_s=60),
        SystemClock().wall,
        machine_options(toolchain, machine),
        network=network,
    )
    bench = Bench(executor, store, directory / "scratch", BUILD_ROOT)
    yield bench
    assert bench.leftovers() == []
    await executor.close()


@pytest.fixture
async def bench(toolchain: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path, toolchain) as bench:
        yield bench


@pytest.fixture
async def every_bench(
    toolchain: Path, tmp_path: Path, machine: MachineKind
) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path, toolchain, machine=machine) as bench:
        yield bench


SCRIPT = """
set -e
test "$(id -u):$(id -g)" = 1000:1000
test "$PWD" = /build/sub
test "$(cat ../in/a)" = hello
test "$VARIABLE" = "it's"
test "$(date +%Y)" -gt 2020
touch /bin/x 2>/dev/null && exit 11
touch /x 2>/dev/null && exit 12
ls /sys 2>/dev/null && exit 13
sh -c 'ls /proc/$$/fd; true' > /tmp/open
grep -vxE '[012]' /tmp/open >&2 && exit 14
test "$(grep -c : /proc/net/dev)" = 1
dmesg 2>/dev/null && exit 15
cat /proc/1/environ 2>/dev/null && exit 16
ls /dev | grep -E 'console|kmsg|tty|vd|vport' >&2 && exit 17
grep NoNewPrivs /proc/self/status | grep -q 1
echo spoilt >> ../in/a
mkdir -p out/d
echo made > out/d/f
ln out/d/f out/hard
ln -s d/f out/soft
chmod +x out/hard
sleep 1000 &
echo printed > /dev/stdout; echo complained > /dev/stderr
head -c 300000 /dev/zero
exit 7
"""


async def test_action_runs_and_leaves_exactly_its_outputs(
    every_bench: Bench, machine: MachineKind
) -> None:
    bench, progress = every_bench, Seen()
    tree: Tree = {"in": {"a": b"hello"}, "sub": {"s": Exe(SCRIPT.encode()), "l": Link("s")}}

    outcome = await bench.run(
        *("sh", "./l"),
        tree=tree,
        working_directory="sub",
        environment={"VARIABLE": "it's"},
        outputs=["out", "out/d", "../in/a", "absent"],
        progress=progress,
    )

    assert (outcome.exit_code, await bench.errors(outcome)) == (7, "complained\n")
    assert bytes(progress.out) == b"printed\n" + bytes(300_000)
    assert progress.started == 1
    made, inner = outcome.directories
    assert await get_tree(bench.store, inner.root) == {"f": Exe(b"made\n")}
    assert await get_tree(bench.store, made.root) == {
        "d": {"f": Exe(b"made\n")},
        "hard": Exe(b"made\n"),
        "soft": Link("d/f"),
    }
    (changed,) = outcome.files
    assert await bench.store.get(changed.digest) == b"hellospoilt\n"
    assert outcome.evidence is not None
    assert outcome.evidence.sandbox is SandboxKind.MICROVM
    assert outcome.evidence.profile is not None
    profile = json.loads(await bench.store.get(outcome.evidence.profile))
    assert set(profile["files"]) == {"kernel", "initramfs", machine.value, "toolchain"}
    assert profile["network"] == "none"
    assert outcome.resources.wall_s < outcome.timings.worker_completed


async def test_input_root_can_be_the_whole_system_and_a_timeout_kills_the_guest(
    every_bench: Bench,
) -> None:
    bench = every_bench
    tree: Tree = {"bin": {"busybox": Exe(BUSYBOX), "sh": Link("busybox")}, "marker": b""}
    script = "/bin/busybox head -c 200001 /dev/zero >&2; /bin/busybox ls /; while :; do :; done"

    with pytest.raises(TimedOut) as raised:
        await bench.run(
            "sh",
            "-c",
            script,
            tree=tree,
            outputs=["marker"],
            platform={"chroot-input-root": "true"},
            timeout_s=5,
        )

    printed = (await bench.store.get(raised.value.stdout)).decode().split()
    assert printed == ["bin", "dev", "marker", "proc", "tmp"]
    assert await bench.store.get(raised.value.stderr) == bytes(200_001)


async def test_inputs_that_do_not_fit_the_disk_are_invalid(toolchain: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    options = replace(machine_options(toolchain), disk_bytes=64 << 20)
    executor = MicrovmExecutor(
        store,
        JsonCodec(),
        ExecutorOptions(scratch=tmp_path / "scratch", max_timeout_s=60),
        SystemClock().wall,
        options,
    )
    bench = Bench(executor, store, tmp_path / "scratch", BUILD_ROOT)

    with pytest.raises(InvalidInput, match=r"does not fit the disk of a guest, which has 64 MiB"):
        await bench.run("true", tree={"large": b"x" * (65 << 20)})

    assert bench.leftovers() == []
    await executor.close()


@pytest.mark.parametrize(
    "coeffects",
    [
        Coeffects(filesystem=(FilesystemGrant("/opt"),)),
        Coeffects(gpu=GpuGrant()),
    ],
)
async def test_what_a_guest_cannot_be_given_is_refused(bench: Bench, coeffects: Coeffects) -> None:
    work = Work(
        name="w",
        digest_function=SHA256,
        input_root=await put_tree(bench.store, {}),
        arguments=("true",),
        coeffects=coeffects,
    )

    with pytest.raises(SandboxUnavailable, match=r"sandbox:microvm .*sandbox:namespace"):
        await bench.executor.execute(work, Seen())

    assert isinstance(bench.executor, MicrovmExecutor)
    assert not bench.executor.suits(work)


async def test_network_without_a_witness_is_refused(bench: Bench) -> None:
    with pytest.raises(SandboxUnavailable, match=r"sandbox:microvm has no network.*witness"):
        await bench.run("true", coeffects=Coeffects(network=(NetworkGrant(),)))


FETCHING = """
wget -q -O out http://h.example:$PORT/file || exit 3
wget -q -O - http://other.example:$PORT/file && exit 4
curl -sSf -o secret https://h.example:$TLS_PORT/secret || exit 8
curl -sf https://other.example:$TLS_PORT/secret && exit 9
env -u SSL_CERT_FILE -u CURL_CA_BUNDLE curl -sf https://h.example:$TLS_PORT/secret && exit 10
nc -w 2 10.0.2.2 $PORT </dev/null && exit 5
nc -w 2 198.51.100.1 80 </dev/null && exit 6
test "$(cat "$SSL_CERT_FILE" | head -n 1)" = "-----BEGIN CERTIFICATE-----" || exit 7
cat out secret
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (apt-get install curl)")
async def test_granted_network_is_the_witness_alone_and_on_record(tmp_path: Path) -> None:
    plain, secret = Origin(answering(b"fetched")), Origin(answering(b" in secret"))
    toolchain = make_toolchain(tmp_path, "curl")
    async with networks(tmp_path) as made, plain.listening(), made.origin(secret, "h.example"):
        network = made.network()
        async with open_bench(tmp_path, toolchain, network) as bench:
            ports = (plain.port, secret.port)
            outcome = await bench.sh(
                FETCHING,
                environment={"PORT": str(plain.port), "TLS_PORT": str(secret.port)},
                coeffects=Coeffects(network=tuple(NetworkGrant("h.example", one) for one in ports)),
            )
            with pytest.raises(InvalidInput, match="leave out network-mode=transparent"):
                await bench.run(
                    "true",
                    platform={"network-mode": "transparent"},
                    coeffects=Coeffects(network=(NetworkGrant(),)),
                )
        await network.close()
        exchanges = await made.exchanges()

    assert (await bench.text(outcome), outcome.exit_code) == ("fetched in secret", 0)
    assert outcome.evidence is not None
    assert outcome.evidence.network_session
    assert set(outcome.evidence.reached) == {Reached("h.example", one) for one in ports}
    assert "other.example" in outcome.message
    assert outcome.sandbox["network"] == "witness"
    assert [(one["url"], one["decision"]["verdict"]) for one in exchanges] == [
        (f"http://h.example:{plain.port}/file", "allow"),
        (f"http://other.example:{plain.port}/file", "deny"),
        (f"https://h.example:{secret.port}/secret", "allow"),
        (f"https://other.example:{secret.port}/secret", "deny"),
        (f"https://h.example:{secret.port}/", "deny"),  # The client did not trust the witness.
    ]
