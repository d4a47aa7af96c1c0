"""How bytes come in and leave: a plain socket of our own, or asyncio's TLS.

A plain socket is read and written here and not by an asyncio transport, for two reasons: one
`sendmsg` takes frame headers and slices of files as they are, and a receive buffer belongs to the
turn and not to the connection, so that idle connections cost none.

Everything is for the thread of the event loop. A link calls its owner, never the other way round
within one call: `send` reports no loss, it only stops sending, and the owner hears of the loss from
the loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from armitage.transport.port import Piece

READ_BYTES = 64 << 10
"""What a wake-up reads at first..."""
READ_MAX_BYTES = 256 << 10
"""...and at most, on connections that bring few and large things. What comes in one wake-up is
worked off in one, so this bounds how long the other connections wait.
"""
_MAX_PIECES = 1024
"""Linux takes no more in one sendmsg (UIO_MAXIOV)."""
_LINGER_S = 1.0
_LINGER_BYTES = 1 << 20
_TLS_BUFFER_BYTES = 1 << 20


class Owner(Protocol):
    """Who reads and writes."""

    def received(self, data: bytes) -> bool:
        """Takes what came in. Answers whether it was bulk, of which more may come at once."""

    def sendable(self) -> None:
        """All that was sent has left, after a `send` that answered False."""

    def lost(self) -> None:
        """The connection is over. Nothing is called after this."""


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
        assert not self._unsent
        self._unsent = pieces
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
        is_bulk = self._owner.received(data)
        if not is_bulk:
            self._read_bytes = READ_BYTES
        elif len(data) == self._read_bytes < READ_MAX_BYTES:
            self._read_bytes *= 2

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
                if len(pieces) == 1:
                    sent = self._socket.send(pieces[0])
                else:
                    sent = self._socket.sendmsg(pieces[:_MAX_PIECES])
                pieces = _without(pieces, sent)
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


class TlsLink(asyncio.BufferedProtocol):
    """asyncio's TLS over a socket. The owner is made once the handshake is done, since it wants to
    know who the client proved to be.
    """

    def __init__(
        self, make_owner: Callable[[TlsLink, asyncio.Transport], Owner], buffer: memoryview
    ) -> None:
        """Takes a buffer to receive into, which all links of a loop may share."""
        self._make_owner = make_owner
        self._buffer = buffer
        self._owner: Owner | None = None
        self._transport: asyncio.Transport
        self._is_paused = False
        self._is_closing = False

    @property
    def is_busy(self) -> bool:
        """See Link."""
        return self._is_paused

    def send(self, pieces: list[Piece]) -> bool:
        """See Link. Joined, as each piece would else become a TLS record of its own."""
        self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        return not self._is_paused

    def pause(self) -> None:
        """See Link."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """See Link."""
        self._transport.resume_reading()

    def close(self) -> None:
        """See Link."""
        self._is_closing = True
        self._transport.close()

    def abort(self) -> None:
        """See Link."""
        self._owner = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(_TLS_BUFFER_BYTES)
        self._owner = self._make_owner(self, transport)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        if self._owner is not None and not self._is_closing:
            self._owner.received(bytes(self._buffer[:nbytes]))

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._is_paused = False
        if self._owner is not None and not self._is_closing:
            self._owner.sendable()

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.lost()
