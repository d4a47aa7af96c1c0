"""What supervisor and worker tell each other: one JSON object a packet, with descriptors beside it.

A packet that would not fit a socket's buffer travels in a file in memory, as the last descriptor.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

MAX_DESCRIPTORS = 8
_INLINE_BYTES = 32 << 10
_SPILLED = b"\0"


def send(connection: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Sends one message; the descriptors are copied. Raises OSError when nobody listens."""
    data = json.dumps(message).encode()
    if len(data) <= _INLINE_BYTES:
        socket.send_fds(connection, [data], list(fds))
        return
    spill = os.memfd_create("message")
    try:
        with os.fdopen(os.dup(spill), "wb") as file:
            file.write(data)
        socket.send_fds(connection, [_SPILLED], [*fds, spill])
    finally:
        os.close(spill)


def receive(
    connection: socket.socket, *, is_trusted: bool = False
) -> tuple[dict[str, Any], list[int]] | None:
    """Takes one message and its descriptors, which are the caller's to close; None at the end.

    Who is not trusted sends what fits a packet. Raises BlockingIOError on a socket that does not
    wait, ValueError when it is no message.
    """
    data, fds, _, _ = socket.recv_fds(connection, _INLINE_BYTES + 1, MAX_DESCRIPTORS)
    if not data:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)
    if data == _SPILLED and is_trusted:
        with os.fdopen(fds.pop(), "rb") as file:
            file.seek(0)
            data = file.read()
    message = _parse(data)
    if message is None:
        for fd in fds:
            os.close(fd)
        raise ValueError("not a message")
    return message, fds


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
