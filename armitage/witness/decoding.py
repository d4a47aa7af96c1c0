"""What a content-encoded body decodes to: lock files may name the digest of either form.

Bounded, because an origin chooses both: beyond the bounds, and for encodings other than gzip and
deflate, the record says nothing of the decoded form.
"""

from __future__ import annotations

import zlib
from hashlib import sha256

_MAX_BYTES = 1 << 30
_MAX_RATIO = 200
_SLICE_BYTES = 1 << 20
_AUTOMATIC = zlib.MAX_WBITS | 32
"""gzip or zlib, by its header."""
_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})


class Decoding:
    """One body's."""

    def __init__(self) -> None:
        self._hash = sha256()
        self._taken = 0
        self._given = 0
        self._decoder = zlib.decompressobj(_AUTOMATIC)

    @classmethod
    def of(cls, encoding: str) -> Decoding | None:
        """For an encoding that is known here."""
        return cls() if encoding.strip().lower() in _KNOWN else None

    def feed(self, data: bytes) -> bool:
        """Takes more of the body; answers whether it is still worth going on."""
        self._taken += len(data)
        try:
            piece = self._decoder.decompress(data, _SLICE_BYTES)
            while piece:
                self._given += len(piece)
                self._hash.update(piece)
                if self._given > min(_MAX_BYTES, self._taken * _MAX_RATIO + _SLICE_BYTES):
                    return False
                piece = self._decoder.decompress(self._decoder.unconsumed_tail, _SLICE_BYTES)
        except zlib.error:
            return False
        return True

    def digest(self) -> str:
        """Answers `sha256:HEX`, or nothing where it was not one whole stream and no more: several
        are read differently by readers.
        """
        whole = self._decoder.eof and not self._decoder.unused_data
        return f"sha256:{self._hash.hexdigest()}" if whole else ""
