"""The queue of operations: by platform, then priority, then fair between flows.

Theory of operation. Operations that ask for the same platform at the same priority stand in one
lane. In a lane each flow (a client, or one invocation of it) has its own first-in-first-out line
and a pass; the flow with the least pass is served next and its pass grows by 1/weight (start-time
fair queueing). A flow that comes anew starts at the pass of the flow served last, so that it
neither waits for the backlog of others nor is paid for having been away; one that comes back keeps
its own pass if that is greater, so that sending one operation at a time is no way past the others.
A worker that matches several lanes of the best priority serves the one that has waited longest for
its turn.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from armitage.scheduler.platforms import Platform

_SPARE_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """An operation that waits. Lower priorities are served sooner."""

    name: str
    platform: Platform
    priority: int
    flow: str


@dataclass(slots=True)
class _Line:
    passed: float
    waiting: OrderedDict[str, None] = field(default_factory=OrderedDict)


class _Lane:
    """One platform at one priority. `_order` holds one live entry for each line, and dead ones;
    `_passes` the passes of flows that have left, as long as they matter.
    """

    def __init__(self) -> None:
        self.served_at = 0
        self._lines: dict[str, _Line] = {}
        self._order: list[tuple[float, int, str]] = []
        self._passes: dict[str, float] = {}
        self._passes_limit = _SPARE_ENTRIES
        self._reached = 0.0
        self._arrivals = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def push(self, entry: Entry, *, front: bool) -> None:
        line = self._lines.get(entry.flow)
        if line is None:
            passed = max(self._reached, self._passes.pop(entry.flow, 0.0))
            line = self._lines[entry.flow] = _Line(passed)
            self._enlist(entry.flow, line)
        line.waiting[entry.name] = None
        if front:
            line.waiting.move_to_end(entry.name, last=False)

    def remove(self, entry: Entry) -> None:
        line = self._lines[entry.flow]
        del line.waiting[entry.name]
        if not line.waiting:
            del self._lines[entry.flow]
        if len(self._order) > 2 * len(self._lines) + _SPARE_ENTRIES:
            self._order = [live for live in self._order if self._is_live(live)]
            heapq.heapify(self._order)

    def pop(self, weight: Callable[[str], float]) -> str:
        while not self._is_live(self._order[0]):
            heapq.heappop(self._order)
        _, _, flow = heapq.heappop(self._order)
        line = self._lines[flow]
        self._reached = line.passed
        name, _ = line.waiting.popitem(last=False)
        passed = line.passed + 1 / weight(flow)
        if line.waiting:
            line.passed = passed
            self._enlist(flow, line)
        else:
            del self._lines[flow]
            self._leave(flow, passed)
        return name

    def _leave(self, flow: str, passed: float) -> None:
        self._passes[flow] = passed
        if len(self._passes) > self._passes_limit:
            self._passes = {f: p for f, p in self._passes.items() if p > self._reached}
            self._passes_limit = 2 * len(self._passes) + _SPARE_ENTRIES

    def _enlist(self, flow: str, line: _Line) -> None:
        self._arrivals += 1
        heapq.heappush(self._order, (line.passed, self._arrivals, flow))

    def _is_live(self, entry: tuple[float, int, str]) -> bool:
        line = self._lines.get(entry[2])
        return line is not None and line.passed == entry[0]


class FairQueue:
    """All operations that wait for a worker. Owned by the scheduler core."""

    def __init__(self, weight: Callable[[str], float]) -> None:
        self._weight = weight
        self._entries: dict[str, Entry] = {}
        self._lanes: dict[Platform, dict[int, _Lane]] = {}
        self._flows: dict[str, int] = {}
        self._served = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def platforms(self) -> list[Platform]:
        """The platforms that somebody waits for."""
        return list(self._lanes)

    @property
    def flows(self) -> int:
        """How many flows have somebody waiting."""
        return len(self._flows)

    def waiting(self, flow: str) -> int:
        """How many operations of a flow wait."""
        return self._flows.get(flow, 0)

    def oldest(self) -> str | None:
        """Answers the operation that has been in the queue longest."""
        return next(iter(self._entries), None)

    def push(self, entry: Entry, *, front: bool = False) -> None:
        """Adds an operation at the end of its line, or at the front if its turn had come before."""
        lanes = self._lanes.setdefault(entry.platform, {})
        lane = lanes.get(entry.priority)
        if lane is None:
            lane = lanes[entry.priority] = _Lane()
            lane.served_at = self._served
        lane.push(entry, front=front)
        self._entries[entry.name] = entry
        self._flows[entry.flow] = self._flows.get(entry.flow, 0) + 1

    def remove(self, name: str) -> None:
        """Takes an operation out wherever it stands; does nothing when it does not wait."""
        entry = self._entries.get(name)
        if entry is None:
            return
        self._lanes[entry.platform][entry.priority].remove(entry)
        self._forget(entry)

    def pop(self, matches: Callable[[Platform], bool]) -> str | None:
        """Takes out the operation whose turn it is among the platforms that match."""
        best: tuple[int, int] | None = None
        chosen: _Lane | None = None
        for platform, lanes in self._lanes.items():
            priority = min(lanes)
            turn = (priority, lanes[priority].served_at)
            if (best is None or turn < best) and matches(platform):
                best, chosen = turn, lanes[priority]
        if chosen is None:
            return None
        self._served += 1
        chosen.served_at = self._served
        name = chosen.pop(self._weight)
        self._forget(self._entries[name])
        return name

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.name]
        left = self._flows[entry.flow] - 1
        if left:
            self._flows[entry.flow] = left
        else:
            del self._flows[entry.flow]
        lanes = self._lanes[entry.platform]
        if not lanes[entry.priority]:
            del lanes[entry.priority]
            if not lanes:
                del self._lanes[entry.platform]
