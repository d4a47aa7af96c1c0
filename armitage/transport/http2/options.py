"""What an HTTP/2 connection offers to and bears from its peer, and the counters of what it bore."""

from __future__ import annotations

from dataclasses import dataclass, fields

from armitage.transport.http2.frames import INITIAL_WINDOW, WINDOW_LIMIT

_KIB = 1 << 10
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Http2Options:
    """Limits of one connection. Sizes are in bytes, rates per second."""

    max_streams: int = 1024
    """Streams open at a time (SETTINGS_MAX_CONCURRENT_STREAMS); further ones are refused."""
    header_list_limit: int = 64 * _KIB
    """Of one request's headers, as RFC 9113 section 6.5.2 counts them."""

    stream_window: int = 256 * _KIB
    """What a peer may send on a new stream before we read it."""
    stream_window_limit: int = 4 * _MIB
    """What that grows to on streams that are read as fast as they are sent."""
    connection_window: int = 16 * _MIB
    """What all streams together may hold unread, messages that are still coming in left out."""
    assembly_budget: int = 64 * _MIB
    """What messages that are still coming in may hold before all streams but the oldest of them
    are held up.
    """
    discard_limit: int = 256 * _MIB
    """How much of a request is read and thrown away after its answer, before a reset."""

    burst: int = 1000
    """How many resets, pings, settings, empty frames and other things that cost us more than the
    peer it may send at once, each kind counted for itself...
    """
    rate: float = 50.0
    """...and how many of them a second in the long run."""

    def __post_init__(self) -> None:
        # A peer sends this much before it has heard of any other window.
        if min(self.stream_window, self.connection_window) < INITIAL_WINDOW:
            raise ValueError(f"receive windows must be at least {INITIAL_WINDOW} bytes")
        if max(self.stream_window_limit, self.connection_window) > WINDOW_LIMIT:
            raise ValueError(f"receive windows must be at most {WINDOW_LIMIT} bytes")


@dataclass(slots=True)
class Counters:
    """What peers did that is hostile or wrong, added up over all connections of a server."""

    connection_errors: int = 0
    """Connections ended by us for a violation of the protocol."""
    stream_errors: int = 0
    """Streams reset by us for a violation of the protocol."""
    refused_streams: int = 0
    """Streams over the limit."""
    reset_floods: int = 0
    """Connections ended for opening and resetting streams too fast (CVE-2023-44487)."""
    continuation_floods: int = 0
    """Connections ended for endless header blocks (CVE-2024-27316)."""
    header_bombs: int = 0
    """Requests refused for too large header lists."""
    ping_floods: int = 0
    settings_floods: int = 0
    empty_frame_floods: int = 0
    """Connections ended for empty DATA, HEADERS or CONTINUATION frames without an end."""
    priority_floods: int = 0
    window_update_floods: int = 0
    late_frame_floods: int = 0
    """Connections ended for frames on streams that were over."""
    window_violations: int = 0
    """Peers that sent more than our window, or opened theirs past 2^31-1."""
    bad_prefaces: int = 0
    """Connections that began with something else than HTTP/2, HTTP/1 left out."""
    http1_requests: int = 0

    def read(self) -> dict[str, int]:
        """All of them by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}
