"""Catching clients that know of no proxy, inside a network namespace whose every address leads to
the witness.

Names are answered with placeholders (armitage.witness.names). Who then connects is known by three
names that must agree: the one that it looked up, the server name of its TLS handshake, and the Host
of its request. What is neither TLS nor HTTP is refused, and so are other ports; both are on record.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network

from armitage.errors import Unavailable
from armitage.witness.exchange import Facts
from armitage.witness.names import MAX_MESSAGE_BYTES, Names
from armitage.witness.policy import Decision, Grant, host_matches, normal_host
from armitage.witness.proxy import Proxy
from armitage.witness.stream import Stream, accept
from executor.ports import PLACEHOLDERS

_log = logging.getLogger(__name__)

_HTTP_PORTS = (80, 443)
_MAX_REFUSED = 1000
"""Look-ups and attempts on record for one session, each once."""
_FIRST_BYTE_S = 10.0

_MAX_CONNECTIONS = 256
_TLS_HANDSHAKE = 0x16
_TCP = 6
_SYN, _ACK = 0x02, 0x10
_LOOPBACK = ip_network("127.0.0.0/8")


def caught_ports(grants: Sequence[Grant]) -> tuple[int, ...]:
    """Where connections are caught: the ports that are granted, and HTTP's where any is."""
    ports = {grant.port for grant in grants if grant.port is not None}
    if any(grant.port is None for grant in grants):
        ports.update(_HTTP_PORTS)
    return tuple(sorted(ports))


class Transparent:
    """The caught side of one session."""

    def __init__(self, proxy: Proxy, grants: Sequence[Grant]) -> None:
        self.ports = caught_ports(grants)
        self._proxy = proxy
        network = ip_network(PLACEHOLDERS)
        assert isinstance(network, IPv4Network)
        self._names = Names(lambda name: _is_granted(name, grants), network)
        self._refused: set[str] = set()
        self._room = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def accept(self, listener: socket.socket) -> None:
        """Serves what connects to one of the ports, until cancelled."""
        await accept(listener, self._serve, self._room)

    async def answer_datagrams(self, resolver: socket.socket) -> None:
        """Answers queries over UDP, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            query, sender = await loop.sock_recvfrom(resolver, MAX_MESSAGE_BYTES + 1)
            answer = await self._resolve(query)
            if answer is not None:
                try:
                    await loop.sock_sendto(resolver, answer, sender)
                except OSError as error:
                    _log.debug("witness: a query could not be answered: %s", error)

    async def answer_streams(self, resolver: socket.socket) -> None:
        """Answers queries over TCP, until cancelled."""
        await accept(resolver, self._answer_stream, self._room)

    async def _answer_stream(self, made: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=_taken(made))
        try:
            while True:
                async with asyncio.timeout(_FIRST_BYTE_S):
                    query = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                answer = await self._resolve(query)
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(2) + answer)
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def watch(self, raw: socket.socket) -> None:
        """Records attempts to connect where nobody listens, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._see(await loop.sock_recv(raw, MAX_MESSAGE_BYTES))

    async def see_the_rest(self, raw: socket.socket) -> None:
        """Records the attempts that nobody has looked at yet."""
        try:
            while True:
                await self._see(raw.recv(MAX_MESSAGE_BYTES))
        except BlockingIOError:
            pass

    async def _see(self, packet: bytes) -> None:
        attempt = _attempt(packet)
        if attempt is None or attempt.port in self.ports:
            return
        host = self._names.name_of(str(attempt.address)) or str(attempt.address)
        where = f"{host}:{attempt.port}"
        caught = ", ".join(map(str, self.ports)) or "none"
        await self._refuse(
            where,
            Facts(self._now(), "CONNECT", f"tcp://{where}", host, attempt.port),
            "port",
            f"TCP to {where} is not caught (ports that are: {caught}); add network:{where} to"
            " its coeffects if HTTP is spoken there",
        )

    async def _resolve(self, query: bytes) -> bytes | None:
        answered = self._names.answer(query)
        if answered is None:
            return None
        if not answered.granted:
            name = answered.name
            await self._refuse(
                f"name {name}",
                Facts(self._now(), "LOOKUP", f"dns:{name}", name, 53),
                "undeclared",
                f"the action looks up {name or 'what is no name'}, and does not declare it; add"
                f" network:{name} to its coeffects",
            )
        return answered.message

    async def _refuse(self, what: str, facts: Facts, rule: str, why: str) -> None:
        if what in self._refused or len(self._refused) >= _MAX_REFUSED:
            return
        self._refused.add(what)
        facts.decision, facts.error = Decision(allowed=False, rule=rule), why
        try:
            await self._proxy.exchanges.keep(facts)
        except Unavailable as error:
            _log.error("witness: %s", error)

    def _now(self) -> float:
        return self._proxy.exchanges.means.clock.wall()

    # A connection

    async def _serve(self, made: socket.socket) -> None:
        address, port = made.getsockname()[:2]
        host = self._names.name_of(address)
        facts = Facts(
            self._now(), "CONNECT", f"tcp://{host or address}:{port}", host or address, port
        )
        first = await _first_byte(made)
        if first is None:
            await self._refuse_protocol(facts, "it waits for the other side to speak first")
        elif first == _TLS_HANDSHAKE:
            await self._serve_tls(made, facts, host or address, is_known=host is not None)
        elif bytes([first]).isalpha():
            await self._proxy.serve_caught(self._stream(made), host, port)
        elif first >= 0:
            await self._refuse_protocol(facts, "it speaks neither TLS nor HTTP")

    async def _refuse_protocol(self, facts: Facts, what: str) -> None:
        where = f"{facts.host}:{facts.port}"
        why = f"the connection to {where} is no HTTP: {what}; only HTTP and HTTPS are witnessed"
        await self._refuse(f"protocol {where}", facts, "protocol", why)

    async def _serve_tls(
        self, made: socket.socket, facts: Facts, host: str, *, is_known: bool
    ) -> None:
        named: list[str] = []
        context = self._proxy.authority.caught_context(
            lambda name: _chosen(host, name, named, is_known=is_known)
        )
        stream = self._stream(made)
        try:
            async with asyncio.timeout(_FIRST_BYTE_S):
                await stream.start_tls(context)
        except (OSError, TimeoutError, ValueError) as error:
            asked = f" as {named[0]}" if named and named[0] != host else ""
            await self._proxy.no_handshake(
                facts, f"no TLS for {host}{asked}: {getattr(error, 'reason', None) or error}"
            )
            return
        await self._proxy.serve_caught(stream, named[0] if named else host, facts.port)

    def _stream(self, made: socket.socket) -> Stream:
        return Stream(made, self._proxy.exchanges.means.limits.idle_s)


def _chosen(host: str, name: str | None, named: list[str], *, is_known: bool) -> str | None:
    """Whose certificate a client gets; None ends its handshake. It is for the name that it looked
    up, or, where it looked up none, for the one that it asks for.
    """
    if name is None:
        return host
    normal = normal_host(name)
    if normal is None:
        return None
    named.append(normal)
    return normal if not is_known or normal == host else None


def _is_granted(name: str, grants: Sequence[Grant]) -> bool:
    return any(not grant.host or host_matches(grant.host, name) for grant in grants)


def _taken(made: socket.socket) -> socket.socket:
    """The socket, for asyncio to own and to close once everything has left."""
    return socket.socket(fileno=made.detach())


async def _first_byte(made: socket.socket) -> int | None:
    """Looks at what a client says first, without taking it; None when it is silent, -1 when it
    left.
    """
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(made, wake)
    try:
        async with asyncio.timeout(_FIRST_BYTE_S):
            await readable
        seen = made.recv(1, socket.MSG_PEEK)
        return seen[0] if seen else -1
    except TimeoutError:
        return None
    finally:
        loop.remove_reader(made)


@dataclass(frozen=True, slots=True)
class _Attempt:
    address: IPv4Address
    port: int


def _attempt(packet: bytes) -> _Attempt | None:
    """Reads the first packet of a connection (RFC 791, RFC 9293); None for any other."""
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _TCP:
        return None
    start = (packet[0] & 0x0F) * 4
    if len(packet) < start + 20 or packet[start + 13] & (_SYN | _ACK) != _SYN:
        return None
    address = IPv4Address(packet[16:20])
    (port,) = struct.unpack_from(">H", packet, start + 2)
    return None if address in _LOOPBACK else _Attempt(address, port)
