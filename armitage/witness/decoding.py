"""What a content-encoded body decodes to: lock files may name the digest of either form.

Bounded, because an origin chooses both: beyond the bounds, and for encodings other than gzip and
deflate, the record says nothing of the decoded form.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from hashlib import sha256

_MAX_BYTES = 1 << 30
_MAX_RATIO = 200
_SLICE_BYTES = 1 << 20
_AUTOMATIC = zlib.MAX_WBITS | 32
"""gzip or zlib, by its header."""
_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})


def decoded_hash(encoding: str, source: str | bytes) -> str:
    """Answers `sha256:HEX` of what the bytes (or a file's, by its path) decode to, or nothing.

    Raises OSError for a file that cannot be read.
    """
    if encoding.strip().lower() not in _KNOWN:
        return ""
    hashed, taken, given = sha256(), 0, 0
    decoder = zlib.decompressobj(_AUTOMATIC)
    try:
        for data in _slices(source):
            taken += len(data)
            piece = decoder.decompress(data, _SLICE_BYTES)
            while piece:
                given += len(piece)
                hashed.update(piece)
                if given > min(_MAX_BYTES, taken * _MAX_RATIO + _SLICE_BYTES):
                    return ""
                piece = decoder.decompress(decoder.unconsumed_tail, _SLICE_BYTES)
    except zlib.error:
        return ""
    # One whole stream and nothing after it; several of them are read differently by readers.
    whole = decoder.eof and not decoder.unused_data
    return f"sha256:{hashed.hexdigest()}" if whole else ""


def _slices(source: str | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb") as file:
        while data := file.read(_SLICE_BYTES):
            yield data
