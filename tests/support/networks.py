"""Sessions of the daemon's network, over a real archive, with sockets on loopback in place of those
inside a sandbox.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from support.witnessed import Origin

from armitage.audit.source import ArchiveSource
from armitage.audit.verify import verify
from armitage.clock import SystemClock
from armitage.witness.archive import Archive, open_archive
from armitage.witness.audit import logged
from armitage.witness.authority import SessionAuthority
from armitage.witness.credentials import CredentialOptions, read_credentials
from armitage.witness.evidence import Kind
from armitage.witness.network import WitnessNetwork, WitnessSession, open_means
from armitage.witness.options import WitnessOptions
from armitage.witness.policy import Rule, Verdict
from armitage.witness.reach import Address, parse_address
from cas.digest import DigestFunction
from executor.coeffects import Coeffects, NetworkGrant
from executor.ports import NetworkUse
from executor.spec import Requester, Work

HOST = "h.example"
READ_LOOPBACK = Rule(Verdict.ALLOW, "loopback", methods=("GET", "HEAD"), networks=("127.0.0.0/8",))
ANYWHERE = Coeffects(network=(NetworkGrant(),))


async def everything_is_here(_: str, __: int) -> list[Address]:
    address = parse_address("127.0.0.1")
    assert address is not None
    return [address]


@dataclass
class Networks:
    """One archive, and networks over it."""

    archive: Archive
    directory: Path
    origins: SessionAuthority
    rules: Sequence[Rule] = (READ_LOOPBACK,)
    credentials: Mapping[str, CredentialOptions] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    revoked: Sequence[str] = ()

    def network(self, *, offline: bool = False) -> WitnessNetwork:
        credentials = read_credentials(self.credentials, self.environment)
        options = WitnessOptions(
            offline=offline,
            authorities=self.directory / "origins.pem",
            rules=tuple(self.rules),
        )
        means = open_means(
            self.archive,
            options,
            credentials,
            SystemClock(),
            everything_is_here,
            revoked=self.revoked,
        )
        return WitnessNetwork(self.archive, means, credentials)

    @asynccontextmanager
    async def session(
        self,
        coeffects: Coeffects = ANYWHERE,
        platform: Sequence[tuple[str, str]] = (),
        *,
        offline: bool = False,
        requester: Requester | None = None,
        caught: int = 0,
    ) -> AsyncIterator[Running]:
        """`caught` is the port, of another address than the origins', where what was meant for it
        is caught.
        """
        network = self.network(offline=offline)
        action = DigestFunction.SHA256.digest(b"action")
        work = replace(
            Work("w", DigestFunction.SHA256, action, ("true",)),
            coeffects=coeffects,
            platform=tuple(platform),
            action=action,
            requester=requester or Requester(identity="CN=builder"),
        )
        try:
            session = await network.open(work)
            running = Running(session, _sockets(session, caught))
            await session.serve(running.sockets)
            try:
                yield running
            finally:
                running.use = await session.close()
        finally:
            await network.close()

    @asynccontextmanager
    async def origin(self, origin: Origin, host: str = HOST) -> AsyncIterator[Origin]:
        async with origin.listening(self.origins.context(host)):
            yield origin

    async def exchanges(self) -> list[dict[str, Any]]:
        return [
            item.record async for item in logged(self.archive) if item.entry.kind is Kind.EXCHANGE
        ]

    async def faults(self) -> list[str]:
        found: list[str] = []
        async for findings in verify(ArchiveSource(self.archive)):
            found = findings.faults
        return found


@dataclass
class Running:
    """A session that serves; `use` once it is closed."""

    session: WitnessSession
    sockets: list[socket.socket]
    use: NetworkUse | None = None

    @property
    def proxy(self) -> str:
        return f"http://127.0.0.1:{self.sockets[0].getsockname()[1]}"

    @property
    def trusted(self) -> ssl.SSLContext:
        bundle = self.session.files["/run/armitage/witness/ca.pem"]
        return ssl.create_default_context(cadata=bundle.decode())

    async def fetch(self, url: str, method: str = "GET", **options: Any) -> tuple[int, bytes]:
        """Fetches as a client does that is told of the proxy."""
        async with (
            aiohttp.ClientSession(auto_decompress=False) as client,
            client.request(
                method, url, proxy=self.proxy, ssl=self.trusted, allow_redirects=False, **options
            ) as response,
        ):
            return response.status, await response.read()


@asynccontextmanager
async def networks(directory: Path, **fields: Any) -> AsyncIterator[Networks]:
    origins = SessionAuthority("origins", SystemClock().wall())
    (directory / "origins.pem").write_bytes(origins.certificate)
    async with open_archive(directory / "record", "test.example/record", SystemClock()) as archive:
        yield Networks(archive, directory, origins, **fields)


def _sockets(session: WitnessSession, caught: int) -> list[socket.socket]:
    """What a sandbox hands out, on free ports; without the raw one, which takes privileges."""
    opened = [socket.create_server(("127.0.0.1", 0))]
    if session.resolver:
        ports = [caught, *[0] * (len(session.ports) - 2)]
        opened += [socket.create_server(("127.0.0.3", port)) for port in ports]
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 0))
        opened += [datagrams, socket.create_server(("127.0.0.1", 0))]
    return opened


async def ask_names(place: tuple[str, int], query: bytes) -> bytes:
    """One query over UDP."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        await loop.sock_connect(client, place)
        await loop.sock_sendall(client, query)
        async with asyncio.timeout(5):
            return await loop.sock_recv(client, 4096)
