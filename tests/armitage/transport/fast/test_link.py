"""A socket, plain or with TLS: what is sent arrives, whole and in order, however little the other
side takes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.certificates import Authority

from armitage.transport.fast.link import (
    READ_MAX_BYTES,
    TLS_BUFFER_BYTES,
    PlainLink,
    TlsLink,
    _without,
)
from armitage.transport.port import Piece
from armitage.transport.tls import TlsFiles, load_tls


class Owner:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.sizes: list[int] = []
        """Of what came, each time."""
        self.heard = asyncio.Event()
        self.has_room = asyncio.Event()
        self.is_lost = asyncio.Event()

    def received(self, data: bytes) -> bool:
        self.data += data
        self.sizes.append(len(data))
        self.heard.set()
        return False

    def secured(self, certificate: Mapping[str, object]) -> None:
        pass

    def sendable(self) -> None:
        self.has_room.set()

    def lost(self) -> None:
        self.is_lost.set()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[PlainLink, Owner, socket.socket]]:
    """A link, its owner and the other end, which is for the loop's sock_* methods."""
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    owner = Owner()
    link = PlainLink(asyncio.get_running_loop(), ours, owner)
    with theirs:
        yield link, owner, theirs
        link.abort()


async def receive(end: socket.socket, size: int, at_a_time: int = 4096) -> bytes:
    data = b""
    while len(data) < size:
        data += await asyncio.get_running_loop().sock_recv(end, at_a_time)
    return data


@pytest.mark.parametrize("size", [1, 40, 3000, 30_000])
async def test_pieces_arrive_in_order_at_a_slow_reader(size: int) -> None:
    pieces: list[Piece] = [bytes([number % 251]) * (size + number) for number in range(50)]
    pieces[7] = memoryview(pieces[7])
    pieces[9] = b""
    async with linked() as (link, owner, end):
        has_left = link.send(list(pieces))
        assert has_left is not link.is_busy
        assert await receive(end, sum(map(len, pieces)), 777 * (size + 1)) == b"".join(pieces)
        if not has_left:
            await asyncio.wait_for(owner.has_room.wait(), 5)
        assert not link.is_busy


async def test_more_pieces_than_the_kernel_takes_at_once_arrive() -> None:
    pieces: list[Piece] = [b"%05d" % number * 20 for number in range(3000)]
    async with linked() as (link, _, end):
        link.send(list(pieces))
        assert await receive(end, 300_000) == b"".join(pieces)


async def test_closing_link_sends_what_is_left_and_then_ends() -> None:
    data = bytes(200_000)
    async with linked() as (link, owner, end):
        assert not link.send([data])
        link.close()
        assert await receive(end, len(data)) == data
        assert await asyncio.get_running_loop().sock_recv(end, 1) == b""
        assert not owner.is_lost.is_set()
        end.close()
        await asyncio.wait_for(owner.is_lost.wait(), 5)


async def test_closing_link_takes_no_notice_of_what_comes_in() -> None:
    async with linked() as (link, owner, end):
        link.close()
        await asyncio.get_running_loop().sock_sendall(end, b"late")
        end.close()
        await asyncio.wait_for(owner.is_lost.wait(), 5)
        assert owner.data == b""


async def test_closing_link_gives_up_on_a_peer_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("armitage.transport.fast.link._LINGER_S", 0.01)
    async with linked() as (link, owner, _):
        link.close()
        await asyncio.wait_for(owner.is_lost.wait(), 5)


async def test_paused_link_reads_nothing() -> None:
    async with linked() as (link, owner, end):
        link.pause()
        await asyncio.get_running_loop().sock_sendall(end, b"x")
        with suppress(TimeoutError):
            await asyncio.wait_for(owner.heard.wait(), 0.02)
        assert owner.data == b""

        link.resume()
        await asyncio.wait_for(owner.heard.wait(), 5)
        assert owner.data == b"x"


async def test_peer_that_leaves_is_a_loss() -> None:
    async with linked() as (_, owner, end):
        end.close()
        await asyncio.wait_for(owner.is_lost.wait(), 5)


async def test_sending_to_a_peer_that_left_raises_nothing() -> None:
    async with linked() as (link, owner, end):
        end.close()
        for _ in range(3):
            link.send([b"anybody"])
        await asyncio.wait_for(owner.is_lost.wait(), 5)


def test_what_was_sent_is_taken_off_the_front() -> None:
    pieces: list[Piece] = [b"abc", b"", b"def", b"g"]
    whole = b"".join(pieces)
    for sent in range(len(whole) + 1):
        assert b"".join(_without(pieces, sent)) == whole[sent:]


class TlsClient:
    """The other end of a TlsLink."""

    def __init__(self, connected: socket.socket, authority: bytes) -> None:
        context = ssl.create_default_context(cadata=authority.decode())
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self._socket = connected

    async def shake_hands(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self._socket, self.outgoing.read())
                self.incoming.write(await loop.sock_recv(self._socket, 1 << 16))
            else:
                break

    def send(self) -> None:
        """Sends all that was encrypted, in one piece."""
        encrypted = self.outgoing.read()
        assert self._socket.send(encrypted) == len(encrypted)


@asynccontextmanager
async def tls_linked(directory: Path) -> AsyncIterator[tuple[TlsLink, Owner, TlsClient]]:
    authority = Authority()
    context = load_tls(TlsFiles(*authority.issue("localhost").write(directory, "server"))).context
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    owner = Owner()
    buffer = memoryview(bytearray(TLS_BUFFER_BYTES))
    link = TlsLink(asyncio.get_running_loop(), ours, owner, context, buffer)
    client = TlsClient(theirs, authority.certificate)
    with theirs:
        await client.shake_hands()
        yield link, owner, client
        link.abort()


async def test_tls_records_that_came_together_are_handed_over_together(tmp_path: Path) -> None:
    async with tls_linked(tmp_path) as (_, owner, client):
        sizes = (1, 9, 16_000, 7, 30_000)
        for size in sizes:
            client.tls.write(bytes(size))
        client.send()
        await asyncio.wait_for(owner.heard.wait(), 5)

    assert owner.sizes == [sum(sizes)]


async def test_what_came_before_the_goodbye_of_tls_is_handed_over(tmp_path: Path) -> None:
    async with tls_linked(tmp_path) as (_, owner, client):
        client.tls.write(b"last words")
        with suppress(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.send()
        await asyncio.wait_for(owner.is_lost.wait(), 5)

    assert owner.data == b"last words"


async def test_full_buffer_of_tls_holds_what_one_read_gives_at_most(tmp_path: Path) -> None:
    part = bytes(16_000)
    async with tls_linked(tmp_path) as (link, owner, client):
        for _ in range(20):
            client.tls.write(part)
        encrypted = client.outgoing.read()
        end = len(encrypted) - 100
        link._incoming.write(encrypted[:16_000])  # Of the first record nearly all.
        link._take(encrypted[16_000 : 16_000 + READ_MAX_BYTES])
        link._take(encrypted[16_000 + READ_MAX_BYTES : end])
        assert len(owner.data) == 19 * len(part)
        link._take(encrypted[end:])

    assert len(owner.data) == 20 * len(part)
