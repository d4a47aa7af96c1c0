"""A witness proxy on loopback, origins that answer by a script, and clients of both."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from armitage.clock import SystemClock
from armitage.observability.redaction import Redactor
from armitage.witness.authority import SessionAuthority
from armitage.witness.counts import WitnessCounts
from armitage.witness.evidence import Subject, parse_entry, parse_record
from armitage.witness.exchange import Exchanges
from armitage.witness.origins import Origins, origin_tls
from armitage.witness.policy import Grant, Rule, Verdict
from armitage.witness.proxy import Proxy
from armitage.witness.reach import Address, parse_address
from armitage.witness.redaction import Redaction
from armitage.witness.sessions import SessionAudit, Sessions
from armitage.witness.stream import Serve, serving
from armitage.witness.terms import Inject, Means, ProxyLimits, Terms, no_credentials
from cas.digest import Digest, DigestFunction
from cas.memory import MemoryOptions, MemoryStore

LOOPBACK = Rule(Verdict.ALLOW, "loopback", networks=("127.0.0.0/8",))
Script = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Origin:
    """Answers each connection by a script, which is given the request's head; one that `keeps` its
    connections goes on to the next request.
    """

    def __init__(self, script: Script, *, keeps: bool = False) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.connections = 0
        self._keeps = keeps
        self.port = 0

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            is_first = True
            try:
                while is_first or self._keeps:
                    is_first = False
                    head = await reader.readuntil(b"\r\n\r\n")
                    self.heads.append(head)
                    await self.script(head, reader, writer)
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


def answering(body: bytes, *headers: str, status: str = "200 OK") -> Script:
    """Answers with a body and its length."""

    async def script(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    return script


def saying(data: bytes) -> Script:
    """Answers with just these bytes."""

    async def script(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return script


@dataclass
class Log:
    """A log in memory."""

    entries: list[bytes] = field(default_factory=list)
    failure: OSError | None = None

    async def append(self, entry: bytes) -> int:
        if self.failure is not None:
            raise self.failure
        self.entries.append(entry)
        return len(self.entries) - 1


@dataclass
class Witness:
    """A session's proxy that listens on loopback."""

    proxy: Proxy
    port: int
    trusted: bytes
    origins: SessionAuthority
    log: Log
    store: MemoryStore

    @property
    def counts(self) -> WitnessCounts:
        return self.proxy.exchanges.means.counts

    @property
    def trusting(self) -> ssl.SSLContext:
        """What a client uses that trusts the session's authority."""
        return ssl.create_default_context(cadata=self.trusted.decode())

    async def records(self) -> list[dict[str, Any]]:
        """What is on record, in order."""
        return [
            parse_record(await self.body(entry.record, entry.size_bytes))
            for entry in map(parse_entry, self.log.entries)
        ]

    async def exchanges(self) -> list[dict[str, Any]]:
        return [record for record in await self.records() if record["kind"] == "exchange"]

    async def body(self, name: str, size: int) -> bytes:
        digest = Digest(DigestFunction.SHA256, name.removeprefix("sha256:"), size)
        return await self.store.get(digest)

    def faults(self) -> list[str]:
        audit = SessionAudit()
        for index, entry in enumerate(self.log.entries):
            audit.add(index, parse_entry(entry))
        return list(audit.faults())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> bytes:
        """Sends bytes to the proxy, and answers all that comes back."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def on_loopback(serve: Serve, most: int = 64) -> AsyncIterator[int]:
    """Serves what connects to a port, so many at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with serving([listener], serve, most):
            yield listener.getsockname()[1]


@asynccontextmanager
async def witness(
    directory: Path,
    *,
    grants: Sequence[Grant] = (Grant(),),
    rules: Sequence[Rule] = (LOOPBACK,),
    limits: ProxyLimits | None = None,
    inject: Inject = no_credentials,
    hosts: Mapping[str, Sequence[str]] | None = None,
) -> AsyncIterator[Witness]:
    """A witness to which every name under `.example` is on loopback."""
    now = SystemClock().wall()
    origins, log, store = (
        SessionAuthority("origins", now),
        Log(),
        MemoryStore(MemoryOptions(), SystemClock().monotonic),
    )
    trusted = directory / "origins.pem"
    trusted.write_bytes(origins.certificate)

    async def resolve(host: str, _: int) -> list[Address]:
        if hosts is None and not host.endswith(".example"):
            raise OSError(f"{host} is not known")
        found = [parse_address(text) for text in (hosts or {}).get(host, ["127.0.0.1"])]
        return [address for address in found if address is not None]

    limits = limits or ProxyLimits(idle_s=5)
    tls = origin_tls(str(trusted))
    means = Means(
        origins=Origins(resolve, tls, connect_s=5, idle_s=limits.idle_s),
        store=store,
        clock=SystemClock(),
        redaction=Redaction(bytes(32), Redactor().text),
        rules=rules,
        limits=limits,
    )
    sessions = Sessions(store, log.append, SystemClock(), lambda: "s1", means.counts)
    session = await sessions.open(Subject(action="sha256:aa/1"), "network")
    authority = SessionAuthority("s1", now)
    exchanges = Exchanges(session, Terms(grants=grants, inject=inject), means)
    proxy = Proxy(exchanges, authority)
    async with on_loopback(proxy.serve) as port:
        yield Witness(proxy, port, authority.certificate, origins, log, store)
        await proxy.close()
    await store.close()


def smart_http(repository: Path) -> Script:
    """Serves one repository as git's smart HTTP does, by git http-backend."""

    async def script(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split()
        path, _, query = target.partition("?")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])
        }
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        process = await asyncio.create_subprocess_exec(
            *("git", "http-backend"),
            env={
                "PATH": os.defpath,
                "GIT_PROJECT_ROOT": str(repository.parent),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": headers.get("git-protocol", ""),
                "REQUEST_METHOD": method,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate(body)
        told, _, content = out.partition(b"\r\n\r\n")
        status = b"200 OK"
        for line in told.split(b"\r\n"):
            if line.lower().startswith(b"status:"):
                status = line.partition(b":")[2].strip()
        length = f"Content-Length: {len(content)}\r\n".encode()
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + told + b"\r\n" + length + b"\r\n" + content)

    return script
