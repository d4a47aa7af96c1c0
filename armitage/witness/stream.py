"""A connection's bytes, plain or with TLS, read when somebody asks for them.

asyncio's streams would do, but copy each byte several times more and take small pieces, which cost
most of a large body's time (benchmarks/witness.py). TLS is OpenSSL between two buffers in memory,
as in armitage.transport.fast.link; that one hands over whatever comes in, while here nothing is
read that nobody has asked for, and what is written has left when the call ends. So a slow end holds
the other one back, and no more than a few pieces are in memory.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from armitage.errors import Unavailable

_log = logging.getLogger(__name__)

_READ_BYTES = 16 << 10
"""What is read at once at first..."""
_READ_MAX_BYTES = 256 << 10
"""...and at most, where much comes."""
_TLS_SLICE_BYTES = 32 << 10
"""What passes through OpenSSL's buffers at once: they never shrink."""
_TLS_RECORD_BYTES = 16 << 10
_JOIN_BYTES = 32 << 10
"""Up to this, copying costs less than to have the kernel gather."""
_LINGER_S = 1.0
_LINGER_BYTES = 1 << 20
_ACCEPT_AGAIN_S = 1.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Piece = bytes | memoryview


class Stream:
    """A connected socket, of the running loop. One reads and one writes at a time; cancelled, a
    write may have sent a part. Raises TimeoutError when the other end is silent, or takes nothing,
    for longer than `idle_s`, and OSError.
    """

    def __init__(self, connected: socket.socket, idle_s: float) -> None:
        """Takes the socket over."""
        connected.setblocking(False)
        if connected.family in {socket.AF_INET, socket.AF_INET6}:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._idle_s = idle_s
        self._read_bytes = _READ_BYTES
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._has_ended = False
        self.tls: ssl.SSLObject | None = None
        """None outside TLS."""

    async def read(self) -> bytes:
        """Answers what has come in, once something has; nothing at the end. TLS that ends without
        saying so has ended all the same: whoever reads knows how much was to come.
        """
        if self.tls is None:
            return await self._receive()
        data = self._decrypt(self.tls, b"") if self._incoming.pending else b""
        while not data and not self._has_ended:
            received = await self._receive()
            if not received:
                break
            data = self._decrypt(self.tls, received)
        if self._outgoing.pending:  # What TLS has to say for itself.
            await self._send([self._outgoing.read()])
        return data

    async def write(self, pieces: Sequence[Piece]) -> None:
        """Sends all of it."""
        if len(pieces) > 1 and sum(map(len, pieces)) <= _JOIN_BYTES:
            pieces = [b"".join(pieces)]
        if self.tls is None:
            await self._send(pieces)
            return
        for piece in pieces:
            await self._send(self._encrypt(self.tls, piece))

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        """Goes on inside TLS, as a server where no name of one is given. Raises ssl.SSLError."""
        tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                received = await self._receive()
                if not received:
                    raise ConnectionResetError("the connection ended in the handshake") from None
                self._incoming.write(received)
            except ssl.SSLError:
                with suppress(OSError, TimeoutError):
                    await self._flush()  # The other end is told why.
                raise
        self.tls = tls
        await self._flush()

    @property
    def is_quiet(self) -> bool:
        """Whether the connection is up and nothing has come that was not read."""
        if self._has_ended or self._incoming.pending:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return self.tls is None or not self.tls.pending()
        except OSError:
            pass
        return False

    @property
    def peer(self) -> object:
        """The other end's address."""
        return self._socket.getpeername()

    async def close(self) -> None:
        """Ends the connection, after the other end had time to read what was sent: a socket that is
        closed with unread bytes sends a reset that overtakes it. Idempotent.
        """
        if self._socket.fileno() < 0:
            return
        try:
            if self.tls is not None:
                with suppress(ssl.SSLError):
                    self.tls.unwrap()  # Says goodbye; nobody waits for the answer.
                await self._flush()
            self._socket.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_LINGER_S):
                left = _LINGER_BYTES
                while left > 0 and (data := await self._receive()):
                    left -= len(data)
        except (OSError, TimeoutError):
            pass
        finally:
            self._socket.close()

    def abort(self) -> None:
        """Ends the connection now. Idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    # TLS

    def _decrypt(self, tls: ssl.SSLObject, received: bytes) -> bytes:
        pieces: list[bytes] = []
        view = memoryview(received)
        try:
            for start in range(0, len(view) or 1, _TLS_SLICE_BYTES):
                self._incoming.write(view[start : start + _TLS_SLICE_BYTES])
                with suppress(ssl.SSLWantReadError):
                    while piece := tls.read(_TLS_RECORD_BYTES):
                        pieces.append(piece)
                    self._has_ended = True
        except ssl.SSLZeroReturnError:
            self._has_ended = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _encrypt(self, tls: ssl.SSLObject, piece: Piece) -> list[Piece]:
        view = memoryview(piece)
        encrypted: list[Piece] = []
        for start in range(0, len(view), _TLS_SLICE_BYTES):
            rest = view[start : start + _TLS_SLICE_BYTES]
            while rest:
                rest = rest[tls.write(rest) :]
            encrypted.append(self._outgoing.read())
        return encrypted

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._send([self._outgoing.read()])

    # The socket

    async def _receive(self) -> bytes:
        while True:
            try:
                data = self._socket.recv(self._read_bytes)
            except (BlockingIOError, InterruptedError):
                await self._wait(self._loop.add_reader, self._loop.remove_reader)
                continue
            if len(data) == self._read_bytes < _READ_MAX_BYTES:
                self._read_bytes *= 2
            return data

    async def _send(self, pieces: Sequence[Piece]) -> None:
        left = list(pieces)
        while left:
            try:
                sent = self._socket.sendmsg(left) if len(left) > 1 else self._socket.send(left[0])
            except (BlockingIOError, InterruptedError):
                await self._wait(self._loop.add_writer, self._loop.remove_writer)
                continue
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = memoryview(left[0])[sent:]

    async def _wait(self, watch: Callable[..., None], unwatch: Callable[[int], object]) -> None:
        number = self._socket.fileno()  # What the loop knows it by: the rest is found out twice.
        ready = self._loop.create_future()
        silent = TimeoutError(f"the other end was silent for {self._idle_s:g} s")
        timer = self._loop.call_later(self._idle_s, _end, ready, silent)
        watch(number, _end, ready, None)
        try:
            await ready
        finally:
            timer.cancel()
            if self._socket.fileno() >= 0:  # Else `abort` did it.
                unwatch(number)


def _end(future: asyncio.Future[None], error: TimeoutError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


Serve = Callable[[socket.socket], Awaitable[None]]
"""Serves one connection, whose socket is closed afterwards."""


@asynccontextmanager
async def serving(
    listeners: Sequence[socket.socket], serve: Serve, most: int
) -> AsyncIterator[None]:
    """Serves what connects, so many at once, until the context ends; what is under way then is
    cancelled. The sockets do not block; who made them closes them.
    """
    room = asyncio.Semaphore(most)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(accept(one, serve, room)) for one in listeners]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def accept(listener: socket.socket, serve: Serve, room: asyncio.Semaphore) -> None:
    """Serves what connects while there is room, until cancelled."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        while True:
            await room.acquire()
            try:
                made, _ = await loop.sock_accept(listener)
            except OSError as error:
                room.release()
                if error.errno in _EXHAUSTED:
                    # The client stays in the backlog, so the loop would wake us at once.
                    _log.warning("witness: no more clients for now: %s", error.strerror)
                    await asyncio.sleep(_ACCEPT_AGAIN_S)
                elif not isinstance(error, ConnectionAbortedError):
                    raise
                continue
            except BaseException:
                room.release()
                raise
            group.create_task(_guard(made, serve, room))


async def _guard(made: socket.socket, serve: Serve, room: asyncio.Semaphore) -> None:
    try:
        await serve(made)
    except (OSError, TimeoutError, Unavailable) as error:
        _log.debug("witness: a connection ended: %s", error)
    except Exception:  # noqa: BLE001 (one connection's; the others go on)
        _log.exception("witness: a connection failed")
    finally:
        made.close()
        room.release()
