"""Listening sockets: binding addresses, and taking clients in."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from armitage.errors import ConfigError
from armitage.transport.addresses import bind_failure, join_address, split_address

_log = logging.getLogger(__name__)

_BACKLOG = 1024
_ACCEPTS_IN_A_TURN = 32
_RETRY_S = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def bind(address: str) -> tuple[list[socket.socket], str]:
    """Listens at an address: on all that a host name stands for, with one port. Answers the
    sockets and the address with the port.

    Raises ConfigError, with nothing left bound.
    """
    if address.startswith("unix"):
        return [_bind_unix(address)], address
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"listen address {address}: {host!r} is not a known host ({error.strerror}); use an IP"
        ) from error
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            bound.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # `[::]` is for both, as long as it does not come beside another address.
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, len(found) > 1)
            listening.bind((where[0], port, *where[2:]))
            port = listening.getsockname()[1]
            _listen(listening)
    except OSError as error:
        for listening in bound:
            listening.close()
        raise bind_failure(address, error) from error
    return bound, join_address(host, port)


def unbind(listening: socket.socket) -> None:
    """Closes a listening socket, and removes its file if it has one."""
    name = listening.getsockname() if listening.family == socket.AF_UNIX else ""
    listening.close()
    if isinstance(name, str) and name:
        Path(name).unlink(missing_ok=True)


def _listen(listening: socket.socket) -> None:
    listening.listen(_BACKLOG)
    listening.setblocking(False)


def _bind_unix(address: str) -> socket.socket:
    if address.startswith("unix-abstract:"):
        path = "\0" + address.removeprefix("unix-abstract:")
    else:
        path = address.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("///") else path
        _remove_leftover(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        _listen(listening)
    except OSError as error:
        listening.close()
        raise bind_failure(address, error) from error
    return listening


def _remove_leftover(path: str) -> None:
    """Removes the socket of a server that is no more, which would else be in the way for ever."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.setblocking(False)
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            return


class Listener:
    """Takes clients in on one listening socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        welcome: Callable[[socket.socket], None],
    ) -> None:
        self._loop = loop
        self._socket = listening
        self._welcome = welcome
        self._retry: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Takes no more in."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket)
        unbind(self._socket)

    def _listen(self) -> None:
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_IN_A_TURN):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                # The client stays in the backlog, so the loop would wake us at once, again and
                # again.
                _log.warning("no more clients for now: %s", error.strerror)
                self._loop.remove_reader(self._socket)
                self._retry = self._loop.call_later(_RETRY_S, self._listen)
                return
            accepted.setblocking(False)
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._welcome(accepted)
