"""Writes evidence as the checker reads it (docs/proofs.md, "Documents")."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import quote

_WORD: Final = re.compile(r"[!-~]+")


@dataclasses.dataclass(frozen=True)
class Network:
    """A connection: the host as it was asked for, an A-label name; the port."""

    host: str
    port: int

    def words(self) -> tuple[str, ...]:
        """The record's words."""
        return "network", self.host, str(self.port)


@dataclasses.dataclass(frozen=True)
class Auth:
    """A credential that was handed over, by name."""

    name: str

    def words(self) -> tuple[str, ...]:
        """The record's words."""
        return "auth", self.name


@dataclasses.dataclass(frozen=True)
class File:
    """A file outside the input tree that was opened: its absolute path, and whether for writing."""

    path: bytes
    written: bool

    def words(self) -> tuple[str, ...]:
        """The record's words."""
        return "filesystem", quote(self.path, safe="/-._~"), "rw" if self.written else "ro"


@dataclasses.dataclass(frozen=True)
class Gpus:
    """Devices held at the same time: how many, and the least memory and capability among them."""

    count: int
    memory_mib: int
    sm: int

    def words(self) -> tuple[str, ...]:
        """The record's words."""
        return "gpu", str(self.count), str(self.memory_mib), str(self.sm)


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """The kind of sandbox that the action ran in."""

    kind: Literal["wasm", "namespace", "microvm"]

    def words(self) -> tuple[str, ...]:
        """The record's words."""
        return "sandbox", self.kind


Item = Network | Auth | File | Gpus | Sandbox


def encode_evidence(session: str, items: Iterable[Item], dropped: int = 0) -> bytes:
    """The evidence of one session. `dropped` counts what was used but could not be recorded; any
    number but 0 makes the checker reject.

    Raises ValueError for a word that is empty or has a space or control byte in it, which could
    forge a record. Whether the words make sense is for the checker to say.
    """
    lines = ["armitage-evidence/1", _line("open", session)]
    count = 0
    for item in items:
        lines.append(_line(str(count), *item.words()))
        count += 1
    lines += [_line("close", session, str(count), str(dropped)), ""]
    return "\n".join(lines).encode("ascii")


def _line(*words: str) -> str:
    for word in words:
        if not _WORD.fullmatch(word):
            raise ValueError(f"{word!r} cannot stand in evidence")
    return " ".join(words)
