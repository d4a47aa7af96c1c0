"""How one log follows another, when the key that signs it is rotated (C2SP tlog-checkpoint: a log's
key is its name, so another key is another log).

The last entry of the log that ends names the key of the next one, and the first entry of the next
one holds the final checkpoint of the one before. So whoever trusts the old key is led to the new
one, and nobody can end a log, or claim to follow one, without the key of that log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from armitage.log.checkpoint import Checkpoint, open_checkpoint
from armitage.log.errors import InvalidSignature, LogError
from armitage.log.note import PublicKey, parse_public_key

ENDS, FOLLOWS = "log-ends", "log-follows"


def ending(following: PublicKey) -> bytes:
    """The last entry of a log that ends."""
    return _encode({"kind": ENDS, "next": str(following), "v": 1})


def beginning(final: bytes, before: PublicKey) -> bytes:
    """The first entry of the next one; `final` is the signed checkpoint of the one before."""
    return _encode({"before": str(before), "checkpoint": final.decode(), "kind": FOLLOWS, "v": 1})


def parse_ending(data: bytes) -> PublicKey:
    """Whose log comes next. Raises LogError."""
    found = _decode(data, ENDS, {"kind", "next", "v"})
    return parse_public_key(found["next"])


def parse_beginning(data: bytes) -> tuple[PublicKey, Checkpoint]:
    """Whose log came before, and its final checkpoint, whose signature is verified. Raises
    LogError.
    """
    found = _decode(data, FOLLOWS, {"before", "checkpoint", "kind", "v"})
    before = parse_public_key(found["before"])
    return before, open_checkpoint(found["checkpoint"].encode(), before).checkpoint


def check_succession(last: bytes, first: bytes, final: bytes, following: PublicKey) -> None:
    """Checks that a log with the entry `first` follows the one with the entry `last` and the signed
    checkpoint `final`. Raises LogError.
    """
    if parse_ending(last) != following:
        raise InvalidSignature("the log before does not name this log's key as the next")
    before, checkpoint = parse_beginning(first)
    if checkpoint != open_checkpoint(final, before).checkpoint:
        raise InvalidSignature("this log follows another checkpoint than the one before ends in")


class SuccessionEntries:
    """The EntryAudit (armitage.audit.verify) of both kinds."""

    kinds = frozenset({ENDS, FOLLOWS})

    def __init__(self, size: int) -> None:
        """`size` is how many entries the log has."""
        self._size = size
        self.before: tuple[PublicKey, Checkpoint] | None = None
        """Whose log came before, and how that ended, as the first entry says; once it is in."""
        self.next: PublicKey | None = None
        """Whose log comes next, as the last entry says; once it is in."""

    async def verify(self, index: int, data: bytes) -> None:
        """See EntryAudit."""
        if json.loads(data)["kind"] == FOLLOWS:
            before = parse_beginning(data)
            if index:
                raise LogError("only the first entry can say which log this one follows")
            self.before = before
            return
        following = parse_ending(data)
        if index != self._size - 1:
            raise LogError("the log goes on after the entry that ends it")
        self.next = following

    def session_record(self, index: int, record: Mapping[str, Any]) -> None:
        """See EntryAudit; sessions do not matter here."""

    def faults(self) -> Iterable[str]:
        """See EntryAudit."""
        return ()


def _encode(value: dict[str, str | int]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _decode(data: bytes, kind: str, names: set[str]) -> dict[str, str]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.keys() != names or _encode(found) != data:
        raise LogError(f"this is no entry of the kind {kind}")
    if (
        found["kind"] != kind
        or found["v"] != 1
        or not all(isinstance(found[name], str) for name in names - {"v"})
    ):
        raise LogError(f"this is no entry of the kind {kind}")
    return found
