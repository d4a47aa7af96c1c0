"""Who may look after the server: the setting `operators`."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import unquote

from armitage.errors import ConfigError, PermissionDenied
from armitage.transport.addresses import is_loopback
from armitage.transport.port import Call

LOOPBACK = "loopback"
"""Among operators: every program of this host."""


class Operators:
    """Subjects of client certificates, and `loopback` for every program of this host."""

    def __init__(self, names: Collection[str] = (LOOPBACK,)) -> None:
        self._names = frozenset(names)

    def check(self, call: Call) -> None:
        """Raises PermissionDenied for who is not among them."""
        if not self.include(call):
            raise PermissionDenied(
                f"{call.identity or call.peer!r} is not among the server's `operators`"
            )

    def include(self, call: Call) -> bool:
        """Tells whether the caller is among them."""
        if call.identity is not None and call.identity in self._names - {LOOPBACK}:
            return True
        return LOOPBACK in self._names and _is_of_this_host(call.peer)


def _is_of_this_host(peer: str) -> bool:
    """Whether a peer's address (`ipv4:127.0.0.1:1234`, `unix:`) is one of this host's loopback."""
    address = unquote(peer).removeprefix("ipv4:").removeprefix("ipv6:")
    try:
        return is_loopback(address)
    except ConfigError:
        return False
