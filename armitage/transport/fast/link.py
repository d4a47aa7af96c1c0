"""How bytes come in and leave: a socket, plain or with TLS.

Sockets are read and written here and not by asyncio's transports, for two reasons: one `sendmsg`
takes frame headers and slices of files as they are, and a receive buffer belongs to the turn and
not to the connection, so that idle connections cost none.

Everything is for the thread of the event loop. A link calls its owner, never the other way round
within one call: `send` reports no loss, it only stops sending, and the owner hears of the loss from
the loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from armitage.transport.port import Piece

_log = logging.getLogger(__name__)

READ_BYTES = 64 << 10
"""What a wake-up reads at first..."""
READ_MAX_BYTES = 256 << 10
"""...and at most, on connections that bring few and large things. What comes in one wake-up is
worked off in one, so this bounds how long the other connections wait.
"""
_JOIN_BYTES = 32 << 10
"""Up to this, copying costs less than to have the kernel gather."""
_MAX_PIECES = 1024
"""Linux takes no more in one sendmsg (UIO_MAXIOV)."""
_LINGER_S = 1.0
_LINGER_BYTES = 1 << 20
_TLS_SLICE_BYTES = 32 << 10
TLS_BUFFER_BYTES = READ_MAX_BYTES + _TLS_SLICE_BYTES
"""Holds whatever is decrypted of one read, and of the part of a record that came before."""


class Owner(Protocol):
    """Who reads and writes."""

    def received(self, data: bytes) -> bool:
        """Takes what came in. Answers whether it was bulk, of which more may come at once."""

    def sendable(self) -> None:
        """All that was sent has left, after a `send` that answered False."""

    def lost(self) -> None:
        """The connection is over. Nothing is called after this."""


class TlsOwner(Owner, Protocol):
    """Who reads and writes what is encrypted on the way."""

    def secured(self, certificate: Mapping[str, object]) -> None:
        """The handshake is done; the client proved to be this (`SSLSocket.getpeercert`), or
        nobody.
        """


class Link(Protocol):
    """One connection's way in and out."""

    @property
    def is_busy(self) -> bool:
        """Whether something that was sent has not left yet; nothing may be sent meanwhile."""

    def send(self, pieces: list[Piece]) -> bool:
        """Sends bytes; answers whether all have left. Else `sendable` comes when they have."""

    def pause(self) -> None:
        """Reads nothing until `resume`."""

    def resume(self) -> None:
        """Reads again."""

    def close(self) -> None:
        """Ends the connection once everything has left, and after the peer had time to read it."""

    def abort(self) -> None:
        """Ends the connection now. `lost` is not called any more."""


class PlainLink:
    """A connected, non-blocking socket."""

    __slots__ = (
        "_is_closing",
        "_is_watching",
        "_lingered",
        "_loop",
        "_owner",
        "_read_bytes",
        "_socket",
        "_timer",
        "_unsent",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connected: socket.socket, owner: Owner
    ) -> None:
        self._loop = loop
        self._socket = connected
        self._owner = owner
        self._unsent: list[Piece] = []
        self._read_bytes = READ_BYTES
        self._is_watching = False
        """Whether the loop tells us when the socket takes bytes again."""
        self._is_closing = False
        self._lingered = 0
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(connected, self._readable)

    @property
    def is_busy(self) -> bool:
        """See Link."""
        return bool(self._unsent)

    def send(self, pieces: list[Piece]) -> bool:
        """See Link."""
        if len(pieces) > 1 and sum(map(len, pieces)) <= _JOIN_BYTES:
            pieces = [b"".join(pieces)]
        self._unsent += pieces
        self._write()
        if self._unsent and not self._is_watching:
            self._is_watching = True
            self._loop.add_writer(self._socket, self._writable)
        return not self._unsent

    def pause(self) -> None:
        """See Link."""
        self._loop.remove_reader(self._socket)

    def resume(self) -> None:
        """See Link."""
        self._loop.add_reader(self._socket, self._readable)

    def close(self) -> None:
        """See Link. A socket closed with unread bytes sends a reset that overtakes what was sent
        last, so ours is half closed first, and what still comes in is thrown away.
        """
        if self._is_closing:
            return
        self._is_closing = True
        self._timer = self._loop.call_later(_LINGER_S, self._give_up)
        if not self._unsent:
            self._half_close()

    def abort(self) -> None:
        """See Link."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        self._unsent = []

    def _readable(self) -> None:
        try:
            data = self._socket.recv(self._read_bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if self._is_closing:
            self._lingered += len(data)
            if not data or self._lingered > _LINGER_BYTES:
                self._give_up()
            return
        if not data:
            self._give_up()
            return
        if not self._take(data):
            self._read_bytes = READ_BYTES
        elif len(data) == self._read_bytes < READ_MAX_BYTES:
            self._read_bytes *= 2

    def _take(self, data: bytes) -> bool:
        return self._owner.received(data)

    def _writable(self) -> None:
        if self._unsent:
            self._write()
        if not self._unsent:
            if self._is_closing:
                self._half_close()
            else:
                self._owner.sendable()
        if not self._unsent and self._is_watching and self._socket.fileno() >= 0:
            self._is_watching = False
            self._loop.remove_writer(self._socket)

    def _write(self) -> None:
        """Sends until everything has left or the socket takes no more. What a broken socket does
        not take is dropped: its end is found by reading.
        """
        pieces = self._unsent
        try:
            while pieces:
                batch = pieces if len(pieces) <= _MAX_PIECES else pieces[:_MAX_PIECES]
                if len(batch) == 1:
                    sent = self._socket.send(batch[0])
                else:
                    sent = self._socket.sendmsg(batch)
                if sent < sum(map(len, batch)):
                    pieces = _without(pieces, sent)
                    break  # It is full now.
                pieces = pieces[len(batch) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            pieces = []
        self._unsent = pieces

    def _half_close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        self.abort()
        self._owner.lost()


def _without(pieces: list[Piece], sent: int) -> list[Piece]:
    """What is left of the pieces once the first bytes of them were sent."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            if not sent:
                return pieces[index:]
            return [memoryview(piece)[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []


class TlsLink(PlainLink):
    """A socket with TLS on it: OpenSSL between two buffers in memory.

    asyncio's TLS would do, but keeps 256 KiB for each connection, and a build farm's connections
    are many and idle. Here what is received goes through a buffer that all links share, and the
    two in between stay small, since they never shrink: what passes them goes in slices.
    """

    __slots__ = ("_buffer", "_incoming", "_is_open", "_outgoing", "_secured", "_tls")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connected: socket.socket,
        owner: TlsOwner,
        context: ssl.SSLContext,
        buffer: memoryview,
    ) -> None:
        """Takes a buffer of TLS_BUFFER_BYTES to decrypt into, which all links of a loop may
        share.
        """
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # Any, since its `read` into a buffer answers no bytes as its type says.
        self._tls: Any = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._secured = owner.secured
        self._buffer = buffer
        self._is_open = False
        """Whether the handshake is done."""
        super().__init__(loop, connected, owner)

    def send(self, pieces: list[Piece]) -> bool:
        """See Link. Joined, as each piece would else become a TLS record of its own."""
        data = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        encrypted: list[Piece] = []
        for start in range(0, len(data), _TLS_SLICE_BYTES):
            rest = data[start : start + _TLS_SLICE_BYTES]
            while rest:
                rest = rest[self._tls.write(rest) :]
            encrypted.append(self._outgoing.read())
        return super().send(encrypted)

    def close(self) -> None:
        """See Link."""
        if self._is_open and not self._is_closing:
            with suppress(ssl.SSLError):
                self._tls.unwrap()  # Says goodbye; nobody waits for the answer.
            self._push()
        super().close()

    def _take(self, data: bytes) -> bool:
        received = memoryview(data)
        filled = 0
        has_ended = False
        for start in range(0, len(received), _TLS_SLICE_BYTES):
            self._incoming.write(received[start : start + _TLS_SLICE_BYTES])
            try:
                if not self._is_open:
                    self._shake_hands()
                while count := self._tls.read(len(self._buffer) - filled, self._buffer[filled:]):
                    filled += count
                has_ended = True  # The peer said goodbye.
                break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                _log.debug("TLS ended: %s", error)
                has_ended = True
                break
        # All at once, since a request that comes in parts is dearer.
        is_bulk = filled > 0 and self._owner.received(bytes(self._buffer[:filled]))
        self._push()
        if has_ended and self._socket.fileno() >= 0:
            self._give_up()
        return is_bulk

    def _shake_hands(self) -> None:
        """Goes on with the handshake. Raises SSLWantReadError until it is done."""
        self._tls.do_handshake()
        self._is_open = True
        self._secured(self._tls.getpeercert() or {})

    def _push(self) -> None:
        """Sends what TLS has to say for itself: its handshake, tickets, alerts."""
        if self._outgoing.pending and self._socket.fileno() >= 0:
            super().send([self._outgoing.read()])
