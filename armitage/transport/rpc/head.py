"""The headers of a request: what HTTP/2 (RFC 9113 section 8.3) and gRPC demand of them, and what
they say.
"""

from __future__ import annotations

from armitage.transport.http2.codes import ErrorCode, StreamFault
from armitage.transport.http2.fields import problem_with
from armitage.transport.port import Code, Status
from armitage.transport.rpc.metadata import RAW, decode_binary, decode_text, parse_timeout

_PSEUDO_HEADERS = frozenset([b":method", b":scheme", b":path", b":authority"])
_OUR_NAMES = frozenset(
    [
        b"te",
        b"host",
        b"content-type",
        b"content-length",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
    ]
)
_ENCODINGS = frozenset([b"identity", b"gzip"])


# What a field is for.
_METADATA = 0
_PSEUDO = 1
_OURS = 2
_UNREADABLE = 3
"""Metadata that should be base64 and is not."""
_MALFORMED = 4

Field = tuple[int, str, str | bytes]
"""A header field that was looked at by itself: what it is for, its name, and the value of metadata,
the raw value of other fields, or what is wrong of malformed ones.
"""


class Head:
    """A request's headers. Shared by all requests with the same ones; never changed."""

    __slots__ = (
        "bodiless",
        "content_length",
        "gzip",
        "http_status",
        "metadata",
        "path",
        "refusal",
        "timeout_s",
    )

    def __init__(self, path: str, metadata: dict[str, str | bytes]) -> None:
        self.path = path
        self.metadata = metadata
        self.timeout_s: float | None = None
        self.gzip = False
        """Messages marked as compressed are."""
        self.content_length: int | None = None
        self.http_status = 0
        """What to answer to what is no gRPC; 0 if it is."""
        self.bodiless = False
        """The answer to what is no gRPC may have no body."""
        self.refusal: Status | None = None
        """What to answer to what is no valid gRPC."""


class RequestRules:
    """See `armitage.transport.http2.headers.Rules`."""

    def classify(self, name: bytes, value: bytes) -> Field:
        """One field."""
        is_binary = name.endswith(b"-bin")
        problem = problem_with(name, value, binary=is_binary and value.startswith(RAW))
        if problem:
            return (_MALFORMED, "", problem)
        text = name.decode("ascii")
        if name.startswith(b":"):
            if name not in _PSEUDO_HEADERS:
                return (_MALFORMED, "", f"unknown pseudo-header {text}")
            return (_PSEUDO, text, value)
        if name in _OUR_NAMES:
            return (_OURS, text, value)
        if not is_binary:
            return (_METADATA, text, decode_text(value))
        try:
            return (_METADATA, text, decode_binary(value))
        except ValueError:
            return (_UNREADABLE, text, b"")

    def assemble(self, fields: list[Field]) -> Head:
        """All fields."""
        metadata: dict[str, str | bytes] = {}
        own: dict[str, bytes] = {}
        unreadable = ""
        regular = False
        for kind, name, value in fields:
            if kind == _METADATA:
                regular = True
                metadata[name] = value
            elif kind == _PSEUDO:
                if regular or name in own:
                    raise _malformed(f"{name} twice, or after other headers")
                own[name] = value  # type: ignore[assignment]
            elif kind == _OURS:
                regular = True
                if name == "content-length" and own.get(name, value) != value:
                    raise _malformed("two content-lengths")
                own[name] = value  # type: ignore[assignment]
            elif kind == _UNREADABLE:
                regular = True
                unreadable = name
            else:
                raise _malformed(str(value))
        _check_pseudo_headers(own)
        head = Head(decode_text(own.get(":path", b"")), metadata)
        _read_own(head, own)
        if unreadable and head.refusal is None:
            head.refusal = Status(Code.INTERNAL, f"metadata {unreadable} is not base64")
        return head

    def check_trailers(self, fields: list[Field]) -> None:
        """Those after the body, of which we use none."""
        for kind, name, value in fields:
            if kind == _MALFORMED:
                raise _malformed(str(value))
            if kind == _PSEUDO:
                raise _malformed(f"{name} in trailers")


def _malformed(reason: str) -> StreamFault:
    return StreamFault(ErrorCode.PROTOCOL_ERROR, reason)


def _check_pseudo_headers(own: dict[str, bytes]) -> None:
    """RFC 9113 section 8.3.1."""
    if ":method" not in own:
        raise _malformed("no :method")
    if own[":method"] == b"CONNECT":
        if ":scheme" in own or ":path" in own or ":authority" not in own:
            raise _malformed("CONNECT with other pseudo-headers than it takes")
        return
    if ":scheme" not in own:
        raise _malformed("no :scheme")
    if not own.get(":path"):
        raise _malformed("no :path")
    if own.get("host", b"") not in (b"", own.get(":authority", own.get("host"))):
        raise _malformed("host differs from :authority")


def _read_own(head: Head, own: dict[str, bytes]) -> None:
    length = own.get("content-length")
    if length is not None:
        if not length.isdigit() or len(length) > 18:
            raise _malformed("content-length is no number")
        head.content_length = int(length)
    if own[":method"] != b"POST":
        head.http_status = 405
        head.bodiless = own[":method"] in (b"HEAD", b"CONNECT")
    elif not _is_grpc(own.get("content-type", b"")):
        head.http_status = 415
    timeout = own.get("grpc-timeout")
    if timeout is not None:
        try:
            head.timeout_s = parse_timeout(timeout)
        except ValueError as error:
            head.refusal = Status(Code.INTERNAL, str(error))
    encoding = own.get("grpc-encoding", b"identity")
    head.gzip = encoding == b"gzip"
    if encoding not in _ENCODINGS:
        head.refusal = Status(
            Code.UNIMPLEMENTED,
            f"grpc-encoding {decode_text(encoding)} is not supported; use identity or gzip",
        )


def _is_grpc(content_type: bytes) -> bool:
    """`application/grpc`, perhaps with a subtype of message (+proto) or parameters."""
    kind = content_type.lower()
    return kind.startswith(b"application/grpc") and kind[16:17] in (b"", b"+", b";")
