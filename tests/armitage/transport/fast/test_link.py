"""A plain socket: what is sent arrives, whole and in order, however little the other side takes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from armitage.transport.fast.link import PlainLink, _without
from armitage.transport.port import Piece


class Owner:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.heard = asyncio.Event()
        self.has_room = asyncio.Event()
        self.is_lost = asyncio.Event()

    def received(self, data: bytes) -> bool:
        self.data += data
        self.heard.set()
        return False

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
