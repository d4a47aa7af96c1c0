"""armitage.witness.stream, over pairs of sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
from support.witnessed import on_loopback

from armitage.clock import SystemClock
from armitage.witness.authority import SessionAuthority
from armitage.witness.stream import Stream

HOST = "h.example"
Pair = tuple[Stream, Stream]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    near, far = (Stream(one, idle_s=5) for one in socket.socketpair())
    yield near, far
    near.abort()
    far.abort()


async def secure(pair: Pair) -> None:
    """Brings TLS up between the two, the second of which is the server."""
    authority = SessionAuthority("s", SystemClock().wall())
    trusting = ssl.create_default_context(cadata=authority.certificate.decode())
    async with asyncio.TaskGroup() as group:
        group.create_task(pair[0].start_tls(trusting, HOST))
        group.create_task(pair[1].start_tls(authority.context(HOST)))


async def all_of(stream: Stream) -> bytes:
    found = b""
    while data := await stream.read():
        found += data
    await stream.close()
    return found


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("sizes", [[1], [1, 2, 3], [5_000_000], [1, 70_000, 1_000_000]])
async def test_what_is_written_arrives(pair: Pair, sizes: list[int], *, tls: bool) -> None:
    if tls:
        await secure(pair)
    pieces = [os.urandom(size) for size in sizes]

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(all_of(pair[1]))
        await pair[0].write(pieces)
        await pair[0].close()

    assert reading.result() == b"".join(pieces)


@pytest.mark.parametrize("tls", [False, True])
async def test_an_end_that_is_cut_off_is_an_end(pair: Pair, *, tls: bool) -> None:
    if tls:
        await secure(pair)
    await pair[1].write([b"a"])  # With what TLS 1.3 says after the handshake before it.
    await pair[0].read()
    await pair[0].write([b"abc"])
    pair[0].abort()

    assert await all_of(pair[1]) == b"abc"


async def test_who_is_silent_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    stream = Stream(ours, idle_s=0.01)
    try:
        with pytest.raises(TimeoutError, match=r"silent for 0\.01 s"):
            await stream.read()
        with pytest.raises(TimeoutError):
            await stream.write([bytes(8 << 20)])
    finally:
        stream.abort()
        theirs.close()


async def test_what_was_sent_last_arrives_though_the_other_end_has_not_finished() -> None:
    async def refuse(made: socket.socket) -> None:
        stream = Stream(made, idle_s=5)
        await stream.read()
        await stream.write([b"no"])
        await stream.close()

    async with on_loopback(refuse) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes(300_000))
        found = await reader.read()
        writer.close()

    assert found == b"no"


@pytest.mark.parametrize("tls", [False, True])
async def test_a_quiet_connection_is_up_with_nothing_unread(pair: Pair, *, tls: bool) -> None:
    if tls:
        await secure(pair)
        await pair[1].write([b"a"])  # As above.
        assert await pair[0].read() == b"a"
    quiet = [pair[0].is_quiet]
    await pair[1].write([b"a"])
    quiet.append(pair[0].is_quiet)
    await pair[0].read()
    quiet.append(pair[0].is_quiet)
    pair[1].abort()
    quiet.append(pair[0].is_quiet)

    assert quiet == [True, False, True, False]


async def test_those_for_whom_there_is_no_room_wait() -> None:
    served, left = asyncio.Queue[socket.socket](), asyncio.Event()

    async def serve(made: socket.socket) -> None:
        served.put_nowait(made)
        await left.wait()

    async with on_loopback(serve, most=2) as port:
        writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(3)]
        await served.get()
        await served.get()
        for _ in range(20):
            await asyncio.sleep(0)
        nobody_else = served.empty()
        left.set()
        await served.get()
        for writer in writers:
            writer.close()

    assert nobody_else
