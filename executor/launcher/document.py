"""What the launcher is asked to make: a list of records, written as launcher.h has them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from enum import IntEnum, IntFlag

_HEAD = struct.Struct("=II")


class Op(IntEnum):
    """Kinds of records; `enum op` in launcher.h, whose comments say what each one has."""

    ROOT_TMPFS = 1
    ROOT_BIND = 2
    BIND = 3
    TMPFS = 4
    PROC = 5
    DEVPTS = 6
    DIR = 7
    LINK = 8
    FILE = 9
    MASK = 10
    SEAL = 11
    LISTEN = 12
    REDIRECT = 13
    GROUP = 14
    IDS = 15
    HOSTNAME = 16
    RLIMIT = 17
    WRITABLE = 18
    ARGUMENT = 19
    VARIABLE = 20
    DIRECTORY = 21
    HOLD = 22
    OVERLAY = 23
    ROOT_OVERLAY = 24
    OWN_NETWORK = 25


class BindFlag(IntFlag):
    """How a part of the host is shown; read-only and without devices unless said."""

    WRITABLE = 1
    DEVICES = 2
    NO_LINKS = 4
    """The source's path must not lead through symbolic links."""


class ListenFlag(IntFlag):
    """Where and how a socket listens: TCP on 127.0.0.1 unless said."""

    ANY_ADDRESS = 1
    DATAGRAM = 2
    RAW = 4
    """Every TCP packet that arrives, whatever its port."""


Field = str | bytes
"""Texts end in NUL; bytes are taken as they are."""


class Document:
    """Collects records. A text with a NUL in it is cut short by the launcher; check before."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, op: Op, *fields: Field) -> None:
        """Adds one record."""
        payload = b"".join(
            os.fsencode(field) + b"\0" if isinstance(field, str) else field for field in fields
        )
        self._parts.append(_HEAD.pack(op, len(payload)) + payload)

    def extend(self, op: Op, texts: Iterable[str]) -> None:
        """Adds one record for each text."""
        for text in texts:
            self.add(op, text)

    def append(self, records: bytes) -> None:
        """Adds records that another document was encoded as."""
        self._parts.append(records)

    def encode(self) -> bytes:
        """Answers the whole document."""
        return b"".join(self._parts)


def u32(*values: int) -> bytes:
    """Answers numbers as a field of 32 bits each."""
    return struct.pack(f"={len(values)}I", *values)


def u64(*values: int) -> bytes:
    """Answers numbers as a field of 64 bits each."""
    return struct.pack(f"={len(values)}Q", *values)
