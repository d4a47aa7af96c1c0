"""Hostile peers against a listening daemon: each is answered as RFC 9113 says, counted, and bounded
in what it costs; everybody else is served meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import struct
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from support.certificates import Authority
from support.daemon import DaemonProcess, daemon_process
from support.hostile import (
    ATTACKS,
    CHECK,
    FLOW_CONTROL_ERROR,
    WATCH,
    WRITE,
    Attack,
    answer_to,
    send,
)
from support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    header_block,
    message,
    raw_client,
    request_fields,
)
from support.transports import TRANSPORTS, Transport, Waiting

from armitage.transport.port import Call, ClientStream

MIB = 1 << 20
FLOODS = [attack for attack in ATTACKS if "flood" in attack.name or attack.name.startswith("rapid")]
fast_only = pytest.mark.parametrize(
    "victim", [name for name in TRANSPORTS if name != "grpcio"], indirect=True
)
"""grpcio answers some of these otherwise, and counts none."""


class Victim:
    """The daemon under attack, and what it spends."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.address = daemon.target
        self._http = daemon.http
        self._pid = daemon.process.pid

    def counter(self, name: str) -> float:
        """A counter of what peers did wrong."""
        with urllib.request.urlopen(f"{self._http}/metrics") as answer:
            for line in answer.read().decode().splitlines():
                metric, _, value = line.rpartition(" ")
                if metric == f"armitage_http2_{name}_total":
                    return float(value)
        raise KeyError(name)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self, field: str) -> int:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        [kib] = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
        return int(kib) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    @asynccontextmanager
    async def bounded(self, *, cpu_s: float = 3.0, memory: int = 48 * MIB) -> AsyncIterator[None]:
        """Holds what the block has done to the daemon to a budget, and asks whether the daemon
        serves others: while it lasts, and afterwards.
        """
        self.forget_peak()
        cpu, resident = self.cpu_s(), self.resident_bytes("VmRSS")
        async with grpc.aio.insecure_channel(self.address) as channel:
            check = channel.unary_unary(CHECK)
            await check(b"", timeout=10)
            async with asyncio.TaskGroup() as group:
                others = group.create_task(self._keep_asking(check))
                yield
                others.cancel()
            await check(b"", timeout=10)
        assert self.cpu_s() - cpu < cpu_s
        assert self.resident_bytes("VmHWM") - resident < memory

    async def _keep_asking(self, check: grpc.aio.UnaryUnaryMultiCallable) -> None:
        while True:
            await check(b"", timeout=10)
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Victim]]:
    with contextlib.ExitStack() as stack:
        found = {}
        for transport in TRANSPORTS.values():
            starting = daemon_process(
                tmp_path_factory.mktemp("victim"), "--storage", "memory", *transport.flags
            )
            found[transport.name] = Victim(stack.enter_context(starting))
        yield found


@pytest.fixture
def victim(victims: dict[str, Victim], request: pytest.FixtureRequest) -> Victim:
    return victims[request.param]


@fast_only
@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
async def test_attack_is_answered_counted_and_bounded(attack: Attack, victim: Victim) -> None:
    before = victim.counter(attack.counter)

    async with victim.bounded():
        frames = await send(victim.address, attack)

    assert answer_to(attack, frames) in attack.codes
    assert victim.counter(attack.counter) > before


@pytest.mark.slow
async def test_floods_all_at_once_leave_others_served(
    transport: Transport, victims: dict[str, Victim]
) -> None:
    """Floods that grpcio does not take for such are to do no harm either."""
    victim = victims[transport.name]

    async with (
        victim.bounded(cpu_s=20, memory=160 * MIB),
        asyncio.timeout(30),
        asyncio.TaskGroup() as group,
    ):
        for attack in FLOODS:
            group.create_task(send(victim.address, attack, wait_s=3))


@fast_only
async def test_header_list_over_the_limit_costs_its_request_alone(victim: Victim) -> None:
    before = victim.counter("header_bombs")
    fields = [(f"x-{number}", "y" * 3000) for number in range(24)]
    block = header_block([*request_fields(CHECK), *fields])

    async with victim.bounded(), raw_client(victim.address) as client:
        client.send(HEADERS, 0, 1, block[:16_000])
        for start in range(16_000, len(block), 16_000):
            rest = block[start : start + 16_000]
            last = start + 16_000 >= len(block)
            client.send(CONTINUATION, END_HEADERS if last else 0, 1, rest)
        ended = await client.until_end_of(1)
        await client.ping()

    assert ended[-1].kind in {RST_STREAM, HEADERS}
    assert victim.counter("header_bombs") > before


@fast_only
@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        (struct.pack(">BI", 0, 2**32 - 1), 8),
        (struct.pack(">BI", 0, 2**31), 8),
        (struct.pack(">BI", 1, 5) + b"plain", 13),
        (struct.pack(">BI", 7, 0), 13),
    ],
    ids=["4-gib", "2-gib", "compressed-by-nothing", "unknown-flags"],
)
async def test_message_prefix_that_lies_costs_its_call_alone(
    victim: Victim, prefix: bytes, code: int
) -> None:
    async with victim.bounded(), raw_client(victim.address) as client:
        stream = client.open_stream(WRITE)
        client.send(DATA, 0, stream, prefix)
        ended = await client.until_end_of(stream)
        await client.ping()

    [trailers] = [each for each in ended if each.kind == HEADERS]
    assert b"grpc-status" in trailers.payload
    assert b"\x0bgrpc-status" + bytes([len(str(code))]) + str(code).encode() in trailers.payload


@fast_only
async def test_http1_gets_an_answer_that_people_can_read(victim: Victim) -> None:
    before = victim.counter("http1_requests")
    reader, writer = await asyncio.open_connection(*victim.address.split(":"))
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

    answer = await asyncio.wait_for(reader.read(), 10)

    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 4")
    assert b"gRPC" in body
    assert victim.counter("http1_requests") > before


@fast_only
@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", bytes(64), b"\xff" * 64],
)
async def test_junk_before_the_preface_ends_the_connection(victim: Victim, junk: bytes) -> None:
    before = victim.counter("bad_prefaces")
    reader, writer = await asyncio.open_connection(*victim.address.split(":"))
    writer.write(junk)

    await asyncio.wait_for(reader.read(), 10)

    writer.close()
    assert victim.counter("bad_prefaces") > before


@pytest.mark.slow
async def test_half_open_connections_cost_little_and_are_let_go(
    transport: Transport, tmp_path: Path
) -> None:
    """Two hundred that never finish their preface, and as many that never speak at all."""
    flags = ("--storage", "memory", "--set", "grpc.handshake_timeout_s=1.0", *transport.flags)
    with daemon_process(tmp_path / "daemon", *flags) as daemon:
        victim = Victim(daemon)
        async with victim.bounded(cpu_s=5), asyncio.timeout(30):
            streams = [
                await asyncio.open_connection(*victim.address.split(":")) for _ in range(400)
            ]
            for _, writer in streams[::2]:
                writer.write(PREFACE[:10])
            for reader, writer in streams:
                with contextlib.suppress(ConnectionError):
                    while await reader.read(1000):
                        pass
                writer.close()


@pytest.mark.slow
async def test_client_that_never_reads_holds_back_its_own_stream_alone(
    transport: Transport, victims: dict[str, Victim]
) -> None:
    """It asks for 64 MiB fifty times over, with windows that take all of it, and reads nothing."""
    victim = victims[transport.name]
    name = await _stored(victim.address, 64 * MIB)
    read = b"\x0a" + bytes([len(name)]) + name
    opening = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1))

    # A chunk of each stream may wait to be sent.
    limits = victim.bounded(cpu_s=6, memory=192 * MIB)
    async with limits, raw_client(victim.address, opening) as client:
        client.send(8, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535))
        for _ in range(50):
            stream = client.open_stream("/google.bytestream.ByteStream/Read")
            client.send_message(stream, read, last=True)
        await client.flush()
        await asyncio.sleep(0.5)  # Long enough for a server without bounds to fill its memory.


async def _stored(address: str, size: int) -> bytes:
    """Uploads so many zeros; the resource name to read them by."""
    import hashlib

    from armitage._proto.google.bytestream import bytestream_pb2 as bytestream

    blob = bytes(size)
    name = f"blobs/{hashlib.sha256(blob).hexdigest()}/{size}"
    upload = f"uploads/9f3c8a9e-6b1f-4f0e-9d5e-2f6f0a8c1b2d/{name}"
    pieces = [
        bytestream.WriteRequest(
            resource_name=upload,
            write_offset=start,
            data=blob[start : start + 2 * MIB],
            finish_write=start + 2 * MIB == size,
        ).SerializeToString()
        for start in range(0, size, 2 * MIB)
    ]
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.stream_unary(WRITE)(iter(pieces))
    return name.encode()


async def test_client_that_ignores_windows_loses_its_stream() -> None:
    """It sends on to a handler that reads nothing."""
    waiting = Waiting()

    async def never_read(requests: AsyncIterator[bytes], call: Call) -> bytes:
        return await waiting.unary(b"", call)

    async with (
        TRANSPORTS["fast"].serving(ClientStream("/s/Stall", never_read)) as subject,
        raw_client(subject.address) as client,
    ):
        stream = client.open_stream("/s/Stall")
        await waiting.began.wait()
        client.write(frame(DATA, 0, stream, message(bytes(16_000))) * 300)
        ended = await client.until_end_of(stream)
        await asyncio.wait_for(waiting.cancelled.wait(), 5)
        await client.ping()

    assert ended[-1].kind == RST_STREAM
    assert ended[-1].payload == FLOW_CONTROL_ERROR.to_bytes(4, "big")


@pytest.mark.slow
async def test_slow_writers_hold_up_nobody(
    transport: Transport, victims: dict[str, Victim]
) -> None:
    """Two hundred calls that each send their request a byte a frame, and never finish."""
    victim = victims[transport.name]

    async with victim.bounded(cpu_s=5), raw_client(victim.address) as client:
        streams = [client.open_stream(WATCH) for _ in range(200)]
        for byte in struct.pack(">xI", 100) + b"x" * 20:
            for stream in streams:
                client.send(DATA, 0, stream, bytes([byte]))
            await client.flush()
        assert not [each for each in await client.ping() if each.kind == GOAWAY]


@pytest.mark.slow
async def test_tls_peer_cannot_renegotiate(transport: Transport, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH (Debian: apt-get install openssl)")
    authority = Authority()
    certificate, key = authority.issue("server").write(tmp_path, "server")
    flags = ("--tls-cert", str(certificate), "--tls-key", str(key), "--storage", "memory")
    with daemon_process(tmp_path / "daemon", *flags, *transport.flags) as daemon:
        client = [
            *("openssl", "s_client", "-connect", daemon.target, "-tls1_2"),
            *("-alpn", "h2", "-servername", "localhost"),
        ]
        said = await asyncio.to_thread(
            subprocess.run, client, input=b"R\n", capture_output=True, timeout=30, check=False
        )
        trust = ssl.create_default_context(cadata=authority.certificate.decode())
        trust.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection(
            *daemon.target.split(":"), ssl=trust, server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.close()

    # Either the server speaks TLS 1.3 alone, which has no renegotiation, or it refuses.
    text = (said.stdout + said.stderr).decode(errors="replace")
    assert said.returncode != 0, text
