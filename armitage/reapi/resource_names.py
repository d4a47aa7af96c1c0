"""ByteStream resource names (REAPI `ContentAddressableStorage`; log stream `LogStream.name`).

    [INSTANCE/]blobs/[FN/]HASH/SIZE
    [INSTANCE/]compressed-blobs/COMPRESSOR/[FN/]HASH/SIZE
    [INSTANCE/]uploads/UUID/blobs/[FN/]HASH/SIZE[/ANYTHING...]
    [INSTANCE/]uploads/UUID/compressed-blobs/COMPRESSOR/[FN/]HASH/SIZE[/ANYTHING...]
    [PARENT/]logstreams/ID[/SECRET]

An instance may be of several segments; it ends at the first reserved word. FN is there for BLAKE3
and left out for the functions that are told by their length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from armitage.errors import InvalidRequest
from armitage.reapi.digests import MARKED_FUNCTIONS, WIRE_FUNCTIONS
from cas.compression import Codec

HEADER = "build.bazel.remote.execution.v2.resource-name"
"""Optional request metadata that repeats the name, for proxies that do not read messages."""

MAX_NAME_CHARS = 4096

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_MAX_SIZE = (1 << 63) - 1
_MARKED = {str(function): WIRE_FUNCTIONS[function] for function in MARKED_FUNCTIONS}
_CODECS = {str(codec): codec for codec in Codec}


@dataclass(frozen=True, slots=True)
class BlobName:
    """A blob to read. The hash is as written; nothing is known of it yet."""

    instance: str
    hash: str
    size_bytes: int
    digest_function: int = 0
    """The REAPI enum value; 0 when the name does not say."""
    codec: Codec | None = None
    """How the data travels; None is plain."""


@dataclass(frozen=True, slots=True)
class UploadName:
    """A blob to write. Equal names are the same upload, whatever metadata trails them."""

    uuid: str
    blob: BlobName


@dataclass(frozen=True, slots=True)
class LogName:
    """A log stream; with the secret it is the name to write to."""

    parent: str
    id: str
    secret: str | None = None


def parse_read_name(name: str) -> BlobName | LogName:
    """Parses the name of something to read. Raises InvalidRequest."""
    segments = _segments(name)
    for index, segment in enumerate(segments):
        if segment in ("blobs", "compressed-blobs"):
            blob, rest = _blob(name, segments, index, "/".join(segments[:index]))
            if rest:
                raise _malformed(name, "something follows the size")
            return blob
        if segment == "logstreams":
            return _log(name, segments, index)
        if segment == "uploads":
            raise _malformed(name, "`uploads` is the beginning of a name to write")
    raise _malformed(name, "it has none of `blobs`, `compressed-blobs`, `logstreams`")


def parse_write_name(name: str) -> UploadName | LogName:
    """Parses the name of something to write. Raises InvalidRequest."""
    segments = _segments(name)
    for index, segment in enumerate(segments):
        if segment == "uploads":
            instance = "/".join(segments[:index])
            if len(segments) < index + 3 or not segments[index + 1]:
                raise _malformed(name, "`uploads` wants a UUID and a blob")
            blob, _ = _blob(name, segments, index + 2, instance)
            return UploadName(segments[index + 1], blob)
        if segment == "logstreams":
            return _log(name, segments, index)
        if segment in ("blobs", "compressed-blobs"):
            raise _malformed(name, f"`{segment}` without `uploads` is the beginning of one to read")
    raise _malformed(name, "it has neither `uploads` nor `logstreams`")


def _segments(name: str) -> list[str]:
    if len(name) > MAX_NAME_CHARS:
        raise _malformed(name, f"it is over {MAX_NAME_CHARS} characters")
    return name.split("/")


def _blob(name: str, segments: list[str], index: int, instance: str) -> tuple[BlobName, list[str]]:
    """Reads from `blobs` or `compressed-blobs` on; answers the blob and what follows its size."""
    _check_prefix(name, segments[:index])
    rest = segments[index + 1 :]
    codec = None
    if segments[index] == "compressed-blobs":
        codec = _CODECS.get(rest[0]) if rest else None
        if codec is None:
            raise _malformed(name, f"its compressor is none of {', '.join(_CODECS)}")
        rest = rest[1:]
    elif segments[index] != "blobs":
        raise _malformed(name, "`blobs` or `compressed-blobs` must follow the UUID")
    function = _MARKED.get(rest[0], 0) if rest else 0
    if function:
        rest = rest[1:]
    if len(rest) < 2 or not _SIZE.fullmatch(rest[1]) or int(rest[1]) > _MAX_SIZE:
        raise _malformed(name, "it must end in HASH/SIZE")
    return BlobName(instance, rest[0], int(rest[1]), function, codec), rest[2:]


def _check_prefix(name: str, segments: list[str]) -> None:
    if "" in segments:
        raise _malformed(name, "no segment may be empty, and there is no leading slash")


def _log(name: str, segments: list[str], index: int) -> LogName:
    _check_prefix(name, segments[:index])
    parent, rest = "/".join(segments[:index]), segments[index + 1 :]
    if len(rest) not in (1, 2) or not all(rest):
        raise _malformed(name, "`logstreams` wants an id, and a secret to write")
    return LogName(parent, *rest)


def _malformed(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"resource name {name[:300]!r} is malformed: {why}")
