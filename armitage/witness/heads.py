"""Heads of HTTP/1.1 messages on their way through the proxy: what is refused because two readers
may understand it differently, and what goes on to the other side. Does no I/O.

Parsing is h11's; this is what a proxy must check beyond it (RFC 9110 sections 7.2 and 7.6, RFC 9112
sections 3.2, 6.1 and 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from armitage.witness.policy import Fetch, normal_host, normal_path
from armitage.witness.reach import parse_address

RawHeaders = Sequence[tuple[bytes, bytes]]

DEFAULT_PORTS = {"http": 80, "https": 443}
_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
# With these an origin may answer that nothing changed, and there is no body to keep.
_CONDITIONAL = frozenset(
    {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"}
)
# With these a client would go round the proxy next time, or keep what it learnt here.
_ELSEWHERE = frozenset({"alt-svc", "strict-transport-security", "public-key-pins"})
_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9a-fA-F:.]{2,45})\]|(?P<name>[\w.-]{1,255}))(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
_V6 = 6


def head_fault(head: bytes) -> str:
    """Says why the bytes of a head, with its blank line, may be read in another way than h11 reads
    them; empty when they may not. h11 lets both of these pass (RFC 9112 sections 2.2 and 5.2).
    """
    lines = head.split(b"\n")
    if any(not line.endswith(b"\r") for line in lines[:-1]):
        return "a line of its head ends in LF without CR"
    if any(line.startswith((b" ", b"\t")) for line in lines):
        return "a header goes on in the next line"
    return ""


class Refused(Exception):
    """A request that is not passed on. `status` is the HTTP status of the answer."""

    def __init__(self, status: int, message: str, rule: str = "malformed") -> None:
        super().__init__(message)
        self.status = status
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes, and what for."""

    scheme: str
    host: str
    """Normal; an IPv6 address without brackets."""
    port: int
    target: str
    """In origin form: path and query."""
    method: str
    path: str

    @property
    def authority(self) -> str:
        """What belongs into the Host header."""
        return authority_of(self.scheme, self.host, self.port)

    @property
    def url(self) -> str:
        """The whole URL, secrets included."""
        return url_of(self.scheme, self.host, self.port, self.target)

    @property
    def fetch(self) -> Fetch:
        """What rules decide about."""
        return Fetch(self.host, self.port, self.method, self.path)


def authority_of(scheme: str, host: str, port: int) -> str:
    """HOST, or HOST:PORT where the port is not the scheme's own."""
    name = f"[{host}]" if ":" in host else host
    return name if port == DEFAULT_PORTS[scheme] else f"{name}:{port}"


def url_of(scheme: str, host: str, port: int, target: str) -> str:
    """The URL of a target in origin form."""
    return f"{scheme}://{authority_of(scheme, host, port)}{target}"


def parse_authority(text: str, default_port: int | None) -> tuple[str, int]:
    """Reads HOST[:PORT]; an IPv6 address is in brackets. Raises Refused."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise Refused(400, f"{text[:100]!r} is not HOST:PORT")
    port = _port(match["port"]) if match["port"] is not None else default_port
    if match["v6"] is not None:
        address = parse_address(match["v6"])
        name = str(address) if address is not None and address.version == _V6 else None
    else:
        name = normal_host(match["name"])
    if not name or port is None:
        raise Refused(400, f"{text[:100]!r} is not HOST:PORT")
    return name, port


def _port(digits: str) -> int | None:
    return int(digits) if 0 < int(digits) < 1 << 16 else None


def connect_target(target: bytes, headers: RawHeaders) -> tuple[str, int]:
    """Where CONNECT wants to go. Raises Refused."""
    text = _text(target)
    host, port = parse_authority(text, None)
    for value in _values(headers, b"host"):
        if parse_authority(_text(value), port) != (host, port):
            raise Refused(400, f"CONNECT {text} with another Host header", "fronting")
    if _values(headers, b"content-length") or _values(headers, b"transfer-encoding"):
        raise Refused(400, "CONNECT with a body")
    return host, port


def plain_target(method: bytes, target: bytes, headers: RawHeaders) -> Target:
    """Where a request outside any tunnel wants to go: it names the whole URL. Raises Refused."""
    text = _text(target)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise Refused(400, "this is no URL") from None
    if parts.scheme != "http" or not parts.netloc:
        raise Refused(
            400, "this is a proxy: ask for http://HOST/PATH, or CONNECT HOST:PORT for https"
        )
    host, port = parse_authority(parts.netloc, DEFAULT_PORTS["http"])
    rest = text[text.index("//") + 2 + len(parts.netloc) :]
    return _target(("http", host, port), method, rest or "/", headers)


def url_target(method: bytes, url: str) -> Target:
    """Where a request for an http or https URL goes. Raises Refused."""
    try:
        parts = urlsplit(url)
        default = DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise Refused(400, "this is no http or https URL") from None
    host, port = parse_authority(parts.netloc, default)
    query = f"?{parts.query}" if parts.query else ""
    named = [(b"host", authority_of(parts.scheme, host, port).encode())]
    return _target((parts.scheme, host, port), method, (parts.path or "/") + query, named)


def direct_target(
    host: str | None, port: int, method: bytes, target: bytes, headers: RawHeaders
) -> Target:
    """Where a request of a client that knows of no proxy wants to go: to the host that it looked
    up, or, where that is not known, to the one that it names. Raises Refused.
    """
    named = _values(headers, b"host")
    if host is None and len(named) == 1:
        host, told = parse_authority(_text(named[0]), DEFAULT_PORTS["http"])
        if told != port:
            raise Refused(421, f"the Host header is not of port {port}", "fronting")
    return _target(("http", host or "", port), method, _text(target), headers)


def tunnel_target(
    host: str, port: int, method: bytes, target: bytes, headers: RawHeaders
) -> Target:
    """Where a request inside a tunnel wants to go: nowhere but where the tunnel leads. Raises
    Refused.
    """
    return _target(("https", host, port), method, _text(target), headers)


def _target(
    origin: tuple[str, str, int], method: bytes, target: str, headers: RawHeaders
) -> Target:
    scheme, host, port = origin
    _check_framing(headers)
    named = _values(headers, b"host")
    if len(named) != 1:
        raise Refused(400, "a request has one Host header")
    if parse_authority(_text(named[0]), DEFAULT_PORTS[scheme]) != (host, port):
        raise Refused(
            421, f"the Host header is not {host}:{port}, where the request goes", "fronting"
        )
    path = normal_path(target)
    if path is None:
        raise Refused(400, "the path can be read in several ways; ask for it without . and ..")
    return Target(scheme, host, port, target.partition("#")[0], _text(method), path)


def _check_framing(headers: RawHeaders) -> None:
    """Refuses what request smuggling is made of, and upgrades."""
    lengths = _values(headers, b"content-length")
    encodings = _values(headers, b"transfer-encoding")
    if len(lengths) > 1 or len(encodings) > 1 or (lengths and encodings):
        raise Refused(400, "the length of the body is said twice")
    if encodings and _text(encodings[0]).lower() != "chunked":
        raise Refused(400, "the only Transfer-Encoding is chunked")
    if _values(headers, b"upgrade"):
        raise Refused(403, "protocols other than HTTP/1.1 are not witnessed", "upgrade")


def check_response_framing(headers: RawHeaders) -> None:
    """Raises Refused when two readers may disagree where a response ends."""
    lengths = _values(headers, b"content-length")
    encodings = _values(headers, b"transfer-encoding")
    odd = encodings and (len(encodings) > 1 or _text(encodings[0]).lower() != "chunked")
    if len(lengths) > 1 or odd or (lengths and encodings):
        raise Refused(502, "the origin says the length of its answer twice", "malformed answer")


def upstream_headers(
    target: Target, headers: RawHeaders, injected: RawHeaders = ()
) -> list[tuple[bytes, bytes]]:
    """What the origin gets: end-to-end headers, the right Host, and no condition under which it
    would leave the body out. `injected` replace headers of the same names.
    """
    replaced = {name.lower() for name, _ in injected} | {b"host", b"connection"}
    kept = _end_to_end(headers, _CONDITIONAL, replaced)
    body = [(name, value) for name, value in headers if name.lower() == b"transfer-encoding"]
    return [(b"host", target.authority.encode()), *kept, *body, *injected]


def downstream_headers(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """What the client gets of the origin's headers."""
    return _end_to_end(headers, _ELSEWHERE, set())


def _end_to_end(
    headers: RawHeaders, left_out: Iterable[str], replaced: set[bytes]
) -> list[tuple[bytes, bytes]]:
    listed = {
        option.strip().lower()
        for value in _values(headers, b"connection")
        for option in _text(value).split(",")
    }
    gone = _HOP_BY_HOP | listed | set(left_out)
    return [
        (name, value)
        for name, value in headers
        if _text(name).lower() not in gone and name.lower() not in replaced
    ]


def _values(headers: RawHeaders, wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name.lower() == wanted]


def _text(value: bytes) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        raise Refused(400, "a request line and its headers are ASCII") from None
