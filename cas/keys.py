"""Keys: digests as bytes, for whatever holds or looks up many of them.

A key is the hash in lowercase hex, the byte 0x10 and the size in LEB128, with a `B` before it all
for BLAKE3, whose hashes are as long as those of SHA-256. That is how clients write a digest on the
wire (REAPI `Digest`, past the hash's tag and length), so that a server can look up hundreds at once
without taking a message apart, and a bytes object hashes and compares ten times as fast as a
Digest.
"""

from __future__ import annotations

from functools import lru_cache

from cas.digest import Buffer, Digest, DigestFunction

_SIZE_TAG = b"\x10"
_TAGS = dict.fromkeys(DigestFunction, b"") | {DigestFunction.BLAKE3: b"B"}
_BY_LENGTH = {function.hex_length: function for function in DigestFunction if not _TAGS[function]}


def tag_of(function: DigestFunction) -> bytes:
    """What stands before the hash in keys of a function; often nothing."""
    return _TAGS[function]


def key_of(digest: Digest) -> bytes:
    """Answers the digest's key."""
    function, hash_, size_bytes = digest
    return _TAGS[function] + hash_.encode("ascii") + _tail(size_bytes)


def digest_of(key: bytes) -> Digest:
    """Answers the digest of a key that key_of made."""
    end = key.index(_SIZE_TAG)
    if key.startswith(b"B"):
        return Digest(DigestFunction.BLAKE3, key[1:end].decode("ascii"), size_of(key))
    return Digest(_BY_LENGTH[end], key[:end].decode("ascii"), size_of(key))


def size_of(key: bytes) -> int:
    """Answers the size of the blob that a key names."""
    size_bytes = shift = 0
    for byte in key[key.index(_SIZE_TAG) + 1 :]:
        size_bytes |= (byte & 0x7F) << shift
        shift += 7
    return size_bytes


def names(key: bytes, data: Buffer) -> bool:
    """Whether the key is that of these bytes."""
    end = key.index(_SIZE_TAG)
    start = key.startswith(b"B")
    function = DigestFunction.BLAKE3 if start else _BY_LENGTH[end]
    hasher = function.hasher()
    hasher.update(data)
    return key[start:] == hasher.hexdigest().encode("ascii") + _tail(len(data))


@lru_cache(maxsize=1 << 14)
def _tail(size_bytes: int) -> bytes:
    out, number = bytearray(_SIZE_TAG), size_bytes
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
