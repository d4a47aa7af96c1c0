"""Listen addresses: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`, and what goes wrong with them."""

from __future__ import annotations

import errno
import ipaddress
import socket

from armitage.errors import ConfigError

_REASONS = {
    errno.EADDRINUSE: "is already in use; stop the program that listens there or choose another",
    errno.EACCES: "may not be bound by this user; choose a port above 1023",
    errno.EADDRNOTAVAIL: "is not an address of this host; choose one that is",
}


def split_address(address: str) -> tuple[str, int]:
    """Splits `HOST:PORT`. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"listen address {address!r}: write it as HOST:PORT, for example [::1]:0")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """Writes a host and a port as `split_address` reads them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Whether only this host's own programs can connect to the address."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind_failure(address: str, error: OSError) -> ConfigError:
    """The one-line error for an address that could not be bound."""
    reason = _REASONS.get(error.errno or 0, f"cannot be bound ({error.strerror or error})")
    return ConfigError(f"listen address {address}: {reason}")


def explain_bind_failure(address: str) -> ConfigError:
    """Finds out why something else could not bind the address, by trying it."""
    unknown = ConfigError(f"listen address {address}: cannot be bound; choose another")
    if address.startswith("unix"):
        return unknown
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return ConfigError(
            f"listen address {address}: {host!r} is not a known host ({error.strerror}); use an IP"
        )
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(where)
                trial.listen()
            except OSError as error:
                return bind_failure(address, error)
    return unknown
