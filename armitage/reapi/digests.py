"""Digests on the wire and back (REAPI `Digest`, `DigestFunction`).

A request says its digest function once, in a field or in a resource name, or leaves it out. Then
the length of the hash
says it, among the functions that the instance offers. 64 hex characters may be SHA256 or BLAKE3
(Buck2 never says which):
under `Unmarked64.AUTO` such a digest is read as both, and whichever is stored, or matches the bytes
written, is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest
from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest
from cas.store import BlobStore

Candidates = tuple[Digest, ...]
"""What one wire digest may mean: one digest, or two of equal hash and size under `auto`."""

WIRE_FUNCTIONS: dict[DigestFunction, reapi.DigestFunction.Value] = {
    DigestFunction.SHA256: reapi.DigestFunction.SHA256,
    DigestFunction.BLAKE3: reapi.DigestFunction.BLAKE3,
    DigestFunction.SHA1: reapi.DigestFunction.SHA1,
    DigestFunction.SHA384: reapi.DigestFunction.SHA384,
    DigestFunction.SHA512: reapi.DigestFunction.SHA512,
}
"""The REAPI enum value of each function."""

_FUNCTIONS: dict[int, DigestFunction] = {
    value: function for function, value in WIRE_FUNCTIONS.items()
}
MARKED_FUNCTIONS = frozenset({DigestFunction.BLAKE3})
"""Functions whose name is part of resource names; the others' is left out."""


_HEX_DIGITS = b"0123456789abcdef"
_make_digest = tuple.__new__  # Skips Digest's own checks, which half of a cold call would go into.

_MAX_REMEMBERED = 1 << 15
"""Some 15 MiB of digests for each notation in use."""


class Unmarked64(StrEnum):
    """What a 64 character hash means when the request does not say."""

    AUTO = "auto"
    SHA256 = "sha256"
    BLAKE3 = "blake3"


@dataclass(frozen=True, slots=True)
class DigestPolicy:
    """The digest functions that an instance offers (the first is the preferred one), and how it
    reads unmarked digests.
    """

    functions: tuple[DigestFunction, ...] = tuple(DigestFunction)
    unmarked_64: Unmarked64 = Unmarked64.AUTO
    _notations: dict[int, Notation] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def notation(self, digest_function: int) -> Notation:
        """Answers how a request with this `digest_function` field writes its digests.

        Raises InvalidRequest when the function is not offered.
        """
        known = self._notations.get(digest_function)
        if known is None:
            known = self._notations[digest_function] = self._make_notation(digest_function)
        return known

    def _make_notation(self, digest_function: int) -> Notation:
        if digest_function == reapi.DigestFunction.UNKNOWN:
            return Notation(0, self._unmarked())
        function = _FUNCTIONS.get(digest_function)
        if function is None or function not in self.functions:
            offered = ", ".join(offer.name for offer in self.functions)
            raise InvalidRequest(
                f"digest function {_wire_name(digest_function)} is not offered here; use {offered}"
            )
        return Notation(digest_function, {function.hex_length: (function,)})

    def _unmarked(self) -> dict[int, tuple[DigestFunction, ...]]:
        by_length: dict[int, tuple[DigestFunction, ...]] = {}
        for function in self.functions:
            if function.hex_length == 64 and self.unmarked_64 not in (Unmarked64.AUTO, function):
                continue
            by_length[function.hex_length] = (*by_length.get(function.hex_length, ()), function)
        return by_length


class Notation:
    """How the digests of one request are written: reads them, and writes them back in the same
    form.
    """

    __slots__ = ("_by_length", "_encoded", "function")

    def __init__(self, function: int, by_length: dict[int, tuple[DigestFunction, ...]]) -> None:
        self.function = function
        """The request's `digest_function` field; 0 (UNKNOWN) when left out."""
        self._by_length = by_length
        self._encoded: dict[bytes, Candidates] = {}

    @property
    def preferred(self) -> DigestFunction:
        """Of digests that we choose to answer: the request's function, or the first on offer."""
        return next(iter(self._by_length.values()))[0]

    def functions_of(self, hex_length: int) -> tuple[DigestFunction, ...]:
        """Answers what a hash of so many characters may be, the likeliest first."""
        return self._by_length.get(hex_length, ())

    def parse(self, wire: reapi.Digest) -> Candidates:
        """Reads one digest. Raises InvalidRequest, naming it, when it can name no blob."""
        return self.candidates(wire.hash, wire.size_bytes)

    def parse_all(self, wires: Iterable[reapi.Digest]) -> list[Candidates]:
        """Reads many digests. Raises as `parse` does."""
        return [self.candidates(wire.hash, wire.size_bytes) for wire in wires]

    def parse_encoded(self, encoded: bytes) -> Candidates:
        """Reads one serialised digest. Raises as `parse` does, and DecodeError.

        The hot path of FindMissingBlobs, whose digests come again and again: remembers recent
        ones.
        """
        known = self._encoded.get(encoded)
        if known is None:
            known = self._read(encoded) or self.parse(reapi.Digest.FromString(encoded))
            if len(self._encoded) >= _MAX_REMEMBERED:
                self._encoded.clear()
            self._encoded[encoded] = known
        return known

    def _read(self, encoded: bytes) -> Candidates | None:
        """Reads the ordinary form of a good digest by hand; leaves all else to others to judge."""
        length = encoded[1] if len(encoded) > 1 else 0
        functions = self._by_length.get(length)
        hash_ = encoded[2 : length + 2]
        rest = encoded[length + 2 :]
        if functions is None or encoded[0] != 0x0A or len(hash_) != length:
            return None
        if hash_.translate(None, _HEX_DIGITS):
            return None
        size, shift = 0, 0
        if rest:
            if rest[0] != 0x10 or not 1 < len(rest) < 10 or rest[-1] > 0x7F:
                return None
            for byte in rest[1:]:
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            if (len(rest) - 1) * 7 != shift:
                return None
        text = hash_.decode()
        return tuple([_make_digest(Digest, (function, text, size)) for function in functions])

    def candidates(self, hash: str, size_bytes: int) -> Candidates:  # noqa: A002
        """Reads the two parts of a digest. Raises InvalidRequest, naming it."""
        functions = self._by_length.get(len(hash))
        if functions is None:
            raise InvalidRequest(self._wrong_length(hash, size_bytes))
        try:
            return tuple(Digest(function, hash, size_bytes) for function in functions)
        except InvalidDigest as error:
            raise InvalidRequest(f"bad digest: {error}") from error

    def subject(self, digest: Digest) -> str:
        """Names a blob as a `PreconditionFailure` of type MISSING does: `blobs/[FN/]HASH/SIZE`,
        marked only if the request was.
        """
        if self.function and digest.function in MARKED_FUNCTIONS:
            return f"blobs/{digest.function}/{digest.hash}/{digest.size_bytes}"
        return f"blobs/{digest.hash}/{digest.size_bytes}"

    def _wrong_length(self, hash: str, size_bytes: int) -> str:  # noqa: A002
        if not hash:
            return "bad digest: the hash is missing; every digest needs a hash and a size"
        lengths = " or ".join(str(length) for length in sorted(self._by_length))
        return (
            f"bad digest: hash {hash[:140]!r} (size {size_bytes}) has {len(hash)} characters;"
            f" this request's digest function takes {lengths}"
        )


def wire_digest(digest: Digest) -> reapi.Digest:
    """Writes a digest."""
    return reapi.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


async def stored_candidate(store: BlobStore, candidates: Sequence[Digest]) -> Digest | None:
    """Answers the candidate that is stored (renewing its lease), or None.

    The empty blob is always stored.
    """
    missing = await store.find_missing(candidates)
    return next((digest for digest in candidates if digest not in missing), None)


def _wire_name(digest_function: int) -> str:
    try:
        return str(reapi.DigestFunction.Value.Name(digest_function))
    except ValueError:
        return f"number {digest_function}"
