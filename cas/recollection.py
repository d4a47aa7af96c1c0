"""What was heard of a remote lately: sans-io; time comes in as an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class _Heard(NamedTuple):
    present: bool
    until: float


class Recollection(Generic[K]):
    """Remembers for a while, and in bounded memory, which keys a remote had and which it lacked."""

    def __init__(self, *, present_s: float, missing_s: float, max_keys: int) -> None:
        """Takes how long each kind of answer holds; the oldest goes when there are too many."""
        self._seconds = {True: present_s, False: missing_s}
        self._max_keys = max_keys
        self._heard: OrderedDict[K, _Heard] = OrderedDict()

    def recall(self, key: K, now: float) -> bool | None:
        """Whether the remote has it, or None when that is not known."""
        heard = self._heard.get(key)
        if heard is None:
            return None
        if now >= heard.until:
            del self._heard[key]
            return None
        return heard.present

    def learn(self, key: K, *, present: bool, now: float) -> None:
        """Remembers an answer, in place of any before."""
        self._heard.pop(key, None)
        if self._seconds[present] > 0:
            self._heard[key] = _Heard(present, now + self._seconds[present])
        while len(self._heard) > self._max_keys:
            self._heard.popitem(last=False)

    def forget(self, key: K) -> None:
        """What was heard no longer holds."""
        self._heard.pop(key, None)

    def __len__(self) -> int:
        return len(self._heard)
