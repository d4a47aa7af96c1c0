"""A resolver that knows only what was granted, and answers placeholders (RFC 1035). Does no I/O.

A client that knows of no proxy looks names up first. It gets an address that stands for the name
and leads to the witness; the witness looks the real ones up itself, and checks them. So no query
ever leaves, and a name says nothing to anybody outside.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from armitage.witness.policy import normal_host

MAX_MESSAGE_BYTES = 4096
TTL_S = 60
_HEADER = struct.Struct(">6H")
_A, _AAAA, _ANY, _IN = 1, 28, 255, 1
_RESPONSE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0100, 0x0080
_OPCODE = 0x7800
_OK, _MALFORMED, _FAILED, _NO_SUCH_NAME, _NOT_IMPLEMENTED = 0, 1, 2, 3, 4
_MAX_LABEL = 63
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a query."""

    message: bytes
    name: str
    """In normal form; empty where there was none to read."""
    granted: bool


class Names:
    """Placeholders for names, and the answers that hold them."""

    def __init__(self, is_granted: Callable[[str], bool], network: IPv4Network) -> None:
        self._is_granted = is_granted
        self._free = iter(network.hosts())
        self._address_of: dict[str, IPv4Address] = {}
        self._name_of: dict[str, str] = {}

    def name_of(self, address: str) -> str | None:
        """The name that an address stands for."""
        return self._name_of.get(address)

    def answer(self, query: bytes) -> Answered | None:
        """Answers a query; None for what is none."""
        if not _HEADER.size <= len(query) <= MAX_MESSAGE_BYTES:
            return None
        number, flags, questions, *_ = _HEADER.unpack_from(query)
        if flags & _RESPONSE:
            return None
        head = _RESPONSE | (flags & (_OPCODE | _RECURSION_DESIRED)) | _RECURSION_AVAILABLE
        if flags & _OPCODE:
            return Answered(_HEADER.pack(number, head | _NOT_IMPLEMENTED, 0, 0, 0, 0), "", False)
        read = _question(query) if questions == 1 else None
        if read is None:
            return Answered(_HEADER.pack(number, head | _MALFORMED, 0, 0, 0, 0), "", False)
        text, kind, klass, question = read
        name = normal_host(text) or ""
        granted = bool(name) and self._is_granted(name)
        code, records = self._records(name, kind, klass) if granted else (_NO_SUCH_NAME, [])
        answer = _HEADER.pack(number, head | code, 1, len(records), 0, 0)
        return Answered(answer + question + b"".join(records), name or text, granted)

    def _records(self, name: str, kind: int, klass: int) -> tuple[int, list[bytes]]:
        if klass != _IN or kind not in {_A, _ANY}:
            return _OK, []  # The name exists; of this kind it has nothing, such as an IPv6 address.
        address = self._placeholder(name)
        if address is None:
            return _FAILED, []
        # The name is the one in the question, at offset 12 (section 4.1.4).
        return _OK, [struct.pack(">HHHIH4s", 0xC00C, _A, _IN, TTL_S, 4, address.packed)]

    def _placeholder(self, name: str) -> IPv4Address | None:
        known = self._address_of.get(name)
        if known is None and (known := next(self._free, None)) is not None:
            self._address_of[name] = known
            self._name_of[str(known)] = name
        return known


def _question(query: bytes) -> tuple[str, int, int, bytes] | None:
    """Reads the one question: name, type, class, and its bytes."""
    labels, place = [], _HEADER.size
    while True:
        if place >= len(query):
            return None
        length = query[place]
        place += 1
        if length == 0:
            break
        # A question has no other name before it that it could point to.
        if length > _MAX_LABEL or place + length > len(query):
            return None
        labels.append(query[place : place + length])
        place += length
    end = place + 4
    if end > len(query) or place - _HEADER.size > _MAX_NAME:
        return None
    kind, klass = struct.unpack_from(">HH", query, place)
    text = ".".join(label.decode("ascii", "replace") for label in labels)
    return text, kind, klass, query[_HEADER.size : end]
