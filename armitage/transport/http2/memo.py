"""A bounded memory of what was worked out before."""

from __future__ import annotations

from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """What belongs to some bytes, forgotten when it was not asked for in a while.

    Two generations: the young one becomes the old one when it is full. What is asked for moves to
    the young one, so that it takes a peer many new keys to push out what is in use. Never holds
    more than twice `entries`, of keys of at most `key_bytes`.
    """

    def __init__(self, entries: int, key_bytes: int) -> None:
        self._entries = entries
        self._key_bytes = key_bytes
        self.young: dict[bytes, Value] = {}
        """Where to look first on a hot path, to read only."""
        self._old: dict[bytes, Value] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def get(self, key: bytes) -> Value | None:
        """What was put there, or None."""
        value = self.young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: Value) -> None:
        """Remembers a value, unless its key is too long to be worth it."""
        if len(key) > self._key_bytes:
            return
        if len(self.young) >= self._entries:
            self._old, self.young = self.young, {}
        self.young[key] = value
