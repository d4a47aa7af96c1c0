"""Clocks and random numbers that are the same in every run, and WASI preview 1's view of them.

Components see them through executor.wasm.interfaces.

- Time starts at FIXED_MTIME_S, the date of every input, for all clocks; each look at one takes a
  millisecond, so that what waits for time to pass sees it pass.
- Sleeping (`poll_oneoff` on clocks) moves time to where the sleeper wants it, at once. Waiting for
  files returns at once: they are always ready.
- Random bytes are one fixed stream, SHAKE-256 over a counter. They are no secret: nothing that is
  made with them may be one.

What stays the host's: the order of directories' entries, inode numbers, and the times of files that
the program makes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator

import wasmtime

from executor.staging import FIXED_MTIME_S

_WASI = "wasi_snapshot_preview1"
TICK_NS = 1_000_000
"""How far each look at a clock moves time, and so what clocks say their resolution is."""
_START_NS = FIXED_MTIME_S * 1_000_000_000
_SUCCESS, _FAULT, _INVALID = 0, 21, 28
_SUBSCRIPTION_BYTES, _EVENT_BYTES = 48, 32
_MAX_SUBSCRIPTIONS = 65_536
_CLOCK_EVENT = 0
_ABSOLUTE = 1
_CHUNK = 1 << 16
_I32, _I64 = wasmtime.ValType.i32, wasmtime.ValType.i64


class Determinism:
    """The clocks and the random numbers of one program at a time."""

    def __init__(self) -> None:
        self._now_ns = _START_NS
        self._drawn = 0

    def reset(self) -> None:
        """Begins anew, for the next run."""
        self._now_ns, self._drawn = _START_NS, 0

    @property
    def now_ns(self) -> int:
        """The time, without a look at it."""
        return self._now_ns

    def look(self) -> int:
        """Answers the time of all clocks, in nanoseconds since 1970."""
        self._now_ns += TICK_NS
        return self._now_ns

    def wait_until(self, when_ns: int) -> None:
        """Moves time on to a point, unless that has passed."""
        self._now_ns = max(self._now_ns, when_ns)

    def draw(self, length: int) -> Iterator[bytes]:
        """Answers the next random bytes, in pieces."""
        while length:
            self._drawn += 1
            size = min(length, _CHUNK)
            yield hashlib.shake_256(b"armitage %d" % self._drawn).digest(size)
            length -= size

    def define(self, linker: wasmtime.Linker) -> None:
        """Puts these in the place of the host's. Import nothing else twice from the linker."""
        linker.allow_shadowing = True
        imports: list[tuple[str, list[wasmtime.ValType], Callable[..., int]]] = [
            ("clock_res_get", [_I32(), _I32()], self._resolution),
            ("clock_time_get", [_I32(), _I64(), _I32()], self._time),
            ("random_get", [_I32(), _I32()], self._random),
            ("poll_oneoff", [_I32(), _I32(), _I32(), _I32()], self._poll),
        ]
        for name, parameters, function in imports:
            kind = wasmtime.FuncType(parameters, [_I32()])
            linker.define_func(_WASI, name, kind, function, access_caller=True)
        linker.allow_shadowing = False

    def _resolution(self, caller: wasmtime.Caller, clock: int, at: int) -> int:
        if not 0 <= clock <= 3:
            return _INVALID
        return _write(caller, at, struct.pack("<Q", TICK_NS))

    def _time(self, caller: wasmtime.Caller, clock: int, precision: int, at: int) -> int:
        del precision
        if not 0 <= clock <= 3:
            return _INVALID
        return _write(caller, at, struct.pack("<Q", self.look()))

    def _random(self, caller: wasmtime.Caller, at: int, length: int) -> int:
        at &= 0xFFFFFFFF
        for piece in self.draw(length & 0xFFFFFFFF):
            if _write(caller, at, piece):
                return _FAULT
            at += len(piece)
        return _SUCCESS

    def _poll(self, caller: wasmtime.Caller, wanted: int, events: int, count: int, at: int) -> int:
        count &= 0xFFFFFFFF
        if not 0 < count <= _MAX_SUBSCRIPTIONS:
            return _INVALID
        raw = _read(caller, wanted, count * _SUBSCRIPTION_BYTES)
        if raw is None:
            return _FAULT
        happened = self._happen([_subscription(raw, i) for i in range(count)])
        if _write(caller, events, b"".join(happened)):
            return _FAULT
        return _write(caller, at, struct.pack("<I", len(happened)))

    def _happen(self, subscriptions: list[tuple[int, int, int | None, bool]]) -> list[bytes]:
        """Answers what becomes of subscriptions: what is ready now, else what time brings first."""
        ready = [(user, kind) for user, kind, wait, _ in subscriptions if wait is None]
        if not ready:
            ends = [
                (wait or 0) if is_absolute else self._now_ns + (wait or 0)
                for _, _, wait, is_absolute in subscriptions
            ]
            self.wait_until(min(ends))
            ready = [
                (user, kind)
                for (user, kind, _, _), end in zip(subscriptions, ends, strict=True)
                if end <= self._now_ns
            ]
        return [struct.pack("<QHB5xQH6x", user, _SUCCESS, kind, 0, 0) for user, kind in ready]


def _subscription(raw: bytes, index: int) -> tuple[int, int, int | None, bool]:
    """Answers user data, kind, what time it waits for (None: for no time), and whether that is a
    point in time.
    """
    base = index * _SUBSCRIPTION_BYTES
    user, kind = struct.unpack_from("<QB", raw, base)
    if kind != _CLOCK_EVENT:
        return user, kind, None, False
    timeout, flags = struct.unpack_from("<Q8xH", raw, base + 24)
    return user, kind, timeout, bool(flags & _ABSOLUTE)


def _memory(caller: wasmtime.Caller) -> wasmtime.Memory | None:
    found = caller.get("memory")
    return found if isinstance(found, wasmtime.Memory) else None


def _write(caller: wasmtime.Caller, at: int, data: bytes) -> int:
    memory, at = _memory(caller), at & 0xFFFFFFFF
    if memory is None or at + len(data) > memory.data_len(caller):
        return _FAULT
    if data:
        memory.write(caller, data, at)
    return _SUCCESS


def _read(caller: wasmtime.Caller, at: int, size: int) -> bytes | None:
    memory, at = _memory(caller), at & 0xFFFFFFFF
    if memory is None or at + size > memory.data_len(caller):
        return None
    return bytes(memory.read(caller, at, at + size))
