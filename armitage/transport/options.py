"""What can be set of a gRPC server, whichever transport carries it."""

from __future__ import annotations

from dataclasses import dataclass, field

from armitage.errors import ConfigError, Unavailable
from armitage.transport.addresses import is_loopback, split_address
from armitage.transport.tls import TlsFiles

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """How a gRPC server listens and what it bears from clients. None switches a limit off."""

    addresses: tuple[str, ...] = ("127.0.0.1:8980",)
    """`HOST:PORT` (port 0: any free one) or `unix:PATH`."""
    tls: TlsFiles | None = None
    plaintext_beyond_loopback: bool = field(default=False, metadata={"setting": False})
    """Accepts that anybody on the network can read and forge everything. The composition root sets
    it from the one setting for all listeners.
    """

    receive_limit_bytes: int = 64 * _MIB
    """Per message. Well above the advertised batch limit, whose messages carry overhead too."""
    metadata_limit_bytes: int = 64 * 1024
    max_streams: int = 1024
    """Concurrent calls per connection; further ones wait at the client."""

    min_ping_interval_s: float = 5.0
    """Clients may ping this often, also with no call open. Buck2 pings every 30 s. For grpcio: the
    fast transport bears many more, and ends only floods.
    """
    keepalive_s: float | None = 60.0
    """How often we ping a silent client, so that vanished ones are noticed."""
    keepalive_timeout_s: float = 20.0
    handshake_timeout_s: float = 20.0
    client_idle_s: float | None = 600.0
    """How long a call may wait for its client to send or to take a message."""
    connection_idle_s: float | None = None
    """Closes connections that had no call for this long."""
    connection_age_s: float | None = None
    """Closes connections this old, once their calls have ended or the grace below is up."""
    connection_age_grace_s: float | None = None

    discard_limit_bytes: int = 256 * _MIB
    """How much of an upload is read and thrown away after an early answer (see `ClientStream`)."""
    discard_limit_s: float = 120.0
    discard_idle_s: float = 1.0
    """How long such a client may be silent before it gets its answer all the same: one that waits
    for the answer before it sends more must not wait for `discard_limit_s`.
    """

    drain_retry_after_s: float = 1.0
    """What calls that come while draining are told (RetryInfo)."""
    drain_exempt: tuple[str, ...] = field(
        default=("grpc.health.v1.Health",), metadata={"setting": False}
    )
    """Services that are still served while draining and do not hold it up."""

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("addresses: none is left; write at least one HOST:PORT")
        if self.max_streams < 1:
            raise ValueError("max_streams: must be at least 1")
        if self.receive_limit_bytes < 1:
            raise ValueError("receive_limit_bytes: must be at least 1")

    def check_reach(self) -> None:
        """Raises ConfigError for an address that is malformed, or that others reach without TLS."""
        for address in self.addresses:
            if not address.startswith("unix"):
                split_address(address)
            if self.tls or self.plaintext_beyond_loopback or is_loopback(address):
                continue
            raise ConfigError(
                f"listen address {address}: reaches beyond this host without TLS; configure TLS, "
                "listen on 127.0.0.1, or accept plaintext explicitly"
            )

    def is_exempt(self, path: str) -> bool:
        """Whether the method is served while draining."""
        return path[1:].partition("/")[0] in self.drain_exempt

    def refusal(self) -> Unavailable:
        """What a call gets that a draining server does not serve any more."""
        return Unavailable("the server is shutting down; try again", self.drain_retry_after_s)


class ClientIdle(Exception):
    """The client neither sent nor took a message for too long. Answered as DEADLINE_EXCEEDED."""

    def __init__(self, idle_s: float) -> None:
        super().__init__(f"the client was idle for {idle_s:g} s")


class DeadlinePassed(Exception):
    """The client's deadline passed. Answered as DEADLINE_EXCEEDED."""

    def __init__(self) -> None:
        super().__init__("the deadline that the client set has passed")
