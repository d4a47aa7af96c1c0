"""A day of churn in minutes: a full store under random puts, reads, touches, holds and evictions,
killed again and again.

    python benchmarks/churn.py [--minutes 5] [--capacity-mib 64] [--day-s 20] [--durability full]

Each life of the store is a process of its own whose clocks run so fast that a day takes `--day-s`
seconds. It works as hard as the leases let it, notes what was acknowledged in a file, and is killed
with SIGKILL after a random time. The next life first checks what must be so:

- no wrong bytes: what is read is what was put (made anew from the blob's number, and compared)
- no lost lease: what was put or answered as present less than 12 hours ago, by the clocks, is there
- no old result: an action's result is the last one acknowledged, or a later one
- no growth: resident memory, open files and bytes on disk stay within what the limits allow

Prints one JSON document; exit code 1 when any of that does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound, StoreFull
from cas.pack_action_cache import CacheOptions
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pack_store import Durability, PackOptions
from cas.upkeep import Upkeep, UpkeepOptions, segment_bytes_for

LEASE_S = 12 * 3600.0
DAY_S = 24 * 3600.0
ACTIONS = 200
CHECKED_READS = 1500
"""Blobs that a new life reads whole; the last one reads them all."""
IN_USE = 300
"""What builds are at work with: so many of the blobs that came last, at most."""
DESCRIPTORS = 400
"""More than a store may ever have open."""


def content(number: int) -> bytes:
    """The blob of that number: most are small, a few are large."""
    chance = random.Random(number)
    size = min(1 << 20, int(chance.paretovariate(0.6) * 200))
    return chance.randbytes(size)


def digest_of(number: int) -> Digest:
    """Of an action: any that is one's own."""
    return DigestFunction.SHA256.digest(b"%d" % number)


@dataclass
class Known:
    """What was acknowledged, by the store's own clock."""

    blobs: dict[int, Digest] = field(default_factory=dict)
    leased: dict[int, float] = field(default_factory=dict)
    """Last touch of each blob."""
    results: dict[int, int] = field(default_factory=dict)
    """Version of each action's result."""
    started: dict[int, int] = field(default_factory=dict)
    """The last version that was begun to be put."""


class Notes:
    """The file of what was acknowledged: each line is written in one go, so a kill loses none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, kind: str, number: int, value: float, digest: Digest | None = None) -> None:
        said = "" if digest is None else f" {digest.hash} {digest.size_bytes}"
        os.write(self._fd, f"{kind} {number} {value!r}{said}\n".encode())

    def _lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            yield from file

    def forget(self, before: float) -> None:
        """Leaves out what was touched last before that, so that the notes do not grow."""
        known = self.read()
        draft = Notes(self._path.with_suffix(".new"))
        for number, touched in known.leased.items():
            if touched >= before:
                draft.note("P", number, touched, known.blobs[number])
        for action, version in known.started.items():
            draft.note("S", action, version)
        for action, version in known.results.items():
            draft.note("R", action, version)
        draft.close()
        self.close()
        self._path.with_suffix(".new").replace(self._path)

    def close(self) -> None:
        os.close(self._fd)

    def read(self) -> Known:
        known = Known()
        for line in self._lines():
            kind, number, value, *said = line.split()
            match kind:
                case b"P":
                    hash_, size = said
                    known.blobs[int(number)] = Digest(
                        DigestFunction.SHA256, hash_.decode(), int(size)
                    )
                    known.leased[int(number)] = float(value)
                case b"T":
                    at = known.leased.get(int(number), 0.0)
                    known.leased[int(number)] = max(at, float(value))
                case b"R":
                    known.results[int(number)] = int(float(value))
                case b"S":
                    known.started[int(number)] = int(float(value))
        return known


@dataclass
class Report:
    """What one life has seen."""

    checked_leases: int = 0
    lost_leases: int = 0
    read_blobs: int = 0
    wrong_bytes: int = 0
    old_results: int = 0
    broken_holds: int = 0
    puts: int = 0
    refused_puts: int = 0
    evicted: int = 0
    damaged: int = 0
    recovered_s: float = 0.0
    rss_mib: float = 0.0
    descriptors: int = 0


class Life:
    """One process's use of the store."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._notes = Notes(args.directory / "notes")
        self._chance = random.Random(args.life * 1_000_003 + args.seed)
        self._speed: float = DAY_S / args.day_s
        self._report = Report()
        self._next = args.life * 10_000_000
        self._live: list[int] = []
        self._blobs: dict[int, Digest] = {}
        self._touched: dict[int, float] = {}

    def clock(self) -> float:
        """Wall time, so fast that it goes on over lives."""
        epoch: float = self._args.epoch
        return epoch + (time.time() - epoch) * self._speed  # noqa: TID251

    async def run(self) -> None:
        args = self._args
        capacity = args.capacity_mib << 20
        options = StorageOptions(
            PackOptions(
                max_bytes=capacity, min_lease_s=LEASE_S, durability=Durability(args.durability)
            ),
            CacheOptions(max_results=ACTIONS),
            segment_bytes_for(capacity),
        )
        began = time.perf_counter()
        storage = await PackStorage.open(
            args.directory / "store", options, Clocks(self.clock, self.clock)
        )
        self._report.recovered_s = round(time.perf_counter() - began, 3)
        self._store, self._cache = storage.store, storage.cache
        self._upkeep = Upkeep(storage, UpkeepOptions())
        try:
            known = self._notes.read()
            self._blobs = known.blobs
            await self._check(known)
            self._live = list(known.leased)[-IN_USE:]
            self._blobs = {number: known.blobs[number] for number in self._live}
            self._touched = {number: known.leased[number] for number in self._live}
            self._say()
            if not args.last:
                async with asyncio.TaskGroup() as group:
                    for _ in range(24):
                        group.create_task(self._churn())
                    group.create_task(self._keep_up())
                    group.create_task(self._hold())
                    group.create_task(self._remember(dict(known.started)))
        finally:
            await storage.close()

    def _say(self) -> None:
        stats = self._store.stats()
        self._report.evicted = stats.evicted_blobs
        self._report.damaged = stats.damaged_blobs
        self._report.rss_mib = round(resident_mib(), 1)
        self._report.descriptors = len(os.listdir("/proc/self/fd"))
        path = self._args.directory / "report.new"
        path.write_text(json.dumps(vars(self._report)))
        path.rename(self._args.directory / f"report-{self._args.life}")

    async def _check(self, known: Known) -> None:
        """What must be so after a kill."""
        present = []
        for number, touched in known.leased.items():
            is_there = self._store.lease_of(self._blobs[number]) is not None
            if self.clock() < touched + LEASE_S - 1:
                self._report.checked_leases += 1
                self._report.lost_leases += not is_there
            if is_there:
                present.append(number)
        reads = len(present) if self._args.last else min(CHECKED_READS, len(present))
        for number in self._chance.sample(present, reads):
            await self._read(number)
        for action, version in known.results.items():
            found = await self._cache.get("", digest_of(action))
            if found is not None and not version <= int(found) <= known.started[action]:
                self._report.old_results += 1

    async def _read(self, number: int) -> None:
        try:
            found = await self._store.get(self._blobs[number])
        except BlobNotFound:
            self._missed(number)
            return
        self._report.read_blobs += 1
        self._report.wrong_bytes += found != content(number)
        self._touch(number, self.clock())

    def _touch(self, number: int, now: float) -> None:
        self._notes.note("T", number, now)
        self._touched[number] = now

    def _missed(self, number: int) -> None:
        is_leased = self.clock() < self._touched.get(number, 0.0) + LEASE_S - 1
        self._report.lost_leases += is_leased

    async def _churn(self) -> None:
        while True:
            what = self._chance.random()
            if what < 0.5 or not self._live:
                await self._put()
            elif what < 0.8:
                await self._read(self._chance.choice(self._in_use()))
            else:
                await self._find()

    async def _put(self) -> None:
        self._next += 1
        number = self._next
        data = content(number)
        digest = DigestFunction.SHA256.digest(data)
        try:
            await self._store.put([digest], data)
        except StoreFull:
            # All is leased: that is what the limit is for. Time passes, and leases end.
            self._report.refused_puts += 1
            await asyncio.sleep(0.05)
            return
        self._notes.note("P", number, self.clock(), digest)
        self._report.puts += 1
        self._blobs[number] = digest
        self._touched[number] = self.clock()
        self._live.append(number)
        if len(self._live) > 2 * IN_USE:
            for old in self._live[:IN_USE]:
                self._blobs.pop(old, None)
                self._touched.pop(old, None)
            del self._live[:IN_USE]

    def _in_use(self) -> list[int]:
        return self._live[-max(5, min(IN_USE, len(self._live) // 6)) :]

    async def _find(self) -> None:
        in_use = self._in_use()
        numbers = self._chance.sample(in_use, min(20, len(in_use)))
        digests = {self._blobs[number]: number for number in numbers}
        missing = await self._store.find_missing(digests)
        for digest in missing:
            self._missed(digests[digest])
        now = self.clock()
        for digest in digests.keys() - set(missing):
            self._touch(digests[digest], now)

    async def _keep_up(self) -> None:
        while True:
            await self._upkeep.run()
            self._say()
            await asyncio.sleep(0.2)

    async def _hold(self) -> None:
        """What a live build holds stays beyond any lease."""
        while True:
            numbers = self._live[-50:]
            digests = [self._blobs[number] for number in numbers]
            held = [d for d in digests if d not in set(await self._store.find_missing(digests))]
            self._store.hold("invocation:1", held)
            # Two leases, whatever a lease is.
            await asyncio.sleep(2 * LEASE_S / self._speed)
            there = [self._store.lease_of(digest) is not None for digest in held]
            self._report.broken_holds += there.count(False)
            self._store.release("invocation:1")

    async def _remember(self, versions: dict[int, int]) -> None:
        while True:
            action = self._chance.randrange(ACTIONS)
            version = versions[action] = versions.get(action, 0) + 1
            self._notes.note("S", action, version)
            await self._cache.put("", digest_of(action), b"%d" % version)
            self._notes.note("R", action, version)
            await asyncio.sleep(0.002)


def resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def disk_bytes(directory: Path) -> int:
    total = 0
    for path in walk(directory):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def walk(directory: Path) -> Iterator[Path]:
    for root, _, names in os.walk(directory):
        yield from (Path(root) / name for name in names)


def spawn(
    args: argparse.Namespace, directory: Path, life: int, *, last: bool
) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, __file__, "--directory", str(directory), "--life", str(life),
        "--epoch", repr(args.epoch), "--day-s", str(args.day_s), "--seed", str(args.seed),
        "--capacity-mib", str(args.capacity_mib), "--durability", args.durability,
    ]  # fmt: skip
    return subprocess.Popen([*command, "--last"] if last else command)


def live(args: argparse.Namespace, directory: Path, life: int, seconds: float) -> int:
    """One life, ended by a kill; answers the most bytes on disk."""
    process = spawn(args, directory, life, last=False)
    most = 0
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline or not (directory / f"report-{life}").exists():
            if process.poll() is not None:
                raise SystemExit(f"life {life} ended by itself with {process.returncode}")
            most = max(most, disk_bytes(directory / "store"))
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return most


def main() -> int:
    args = parse()
    if args.life is not None:
        asyncio.run(Life(args).run())
        return 0
    args.epoch = float(int(time.time()))  # noqa: TID251
    chance = random.Random(args.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that no life goes on alone.
    with tempfile.TemporaryDirectory(prefix="armitage-churn-", dir=args.where) as name:
        directory = Path(name)
        most_disk = 0
        life = 0
        end = time.monotonic() + args.minutes * 60
        while time.monotonic() < end:
            seconds = chance.uniform(0.5, args.longest_life_s)
            most_disk = max(most_disk, live(args, directory, life, seconds))
            life += 1
            now = args.epoch + (time.time() - args.epoch) * DAY_S / args.day_s  # noqa: TID251
            Notes(directory / "notes").forget(now - 3 * LEASE_S)
        process = spawn(args, directory, life, last=True)
        if process.wait() != 0:
            raise SystemExit(f"the last life failed with {process.returncode}")
        reports = [
            Report(**json.loads((directory / f"report-{one}").read_text()))
            for one in range(life + 1)
        ]
    return conclude(args, reports, most_disk)


def conclude(args: argparse.Namespace, reports: list[Report], most_disk: int) -> int:
    third = max(1, len(reports) // 3)
    # All live bytes, as much garbage as is let be, one segment being written and one being copied,
    # keys and headers of small records, and the notes of touches.
    capacity = args.capacity_mib << 20
    disk_limit = int(capacity / (1 - UpkeepOptions().garbage_share) * 1.1)
    disk_limit += 4 * segment_bytes_for(capacity) + (8 << 20)
    early = max(report.rss_mib for report in reports[:third])
    late = max(report.rss_mib for report in reports[-third:])
    value = {
        "lives": len(reports),
        "days": round(args.minutes * 60 / args.day_s, 1),
        **{
            name: sum(getattr(report, name) for report in reports)
            for name in (
                "puts", "refused_puts", "evicted", "read_blobs", "wrong_bytes", "checked_leases",
                "lost_leases", "broken_holds", "old_results", "damaged",
            )
        },
        "slowest_recovery_s": max(report.recovered_s for report in reports),
        "rss_mib_first_third": early,
        "rss_mib_last_third": late,
        "most_descriptors": max(report.descriptors for report in reports),
        "most_disk_mib": round(most_disk / 2**20, 1),
        "disk_limit_mib": round(disk_limit / 2**20, 1),
    }  # fmt: skip
    problems = [
        name
        for name in ("wrong_bytes", "lost_leases", "broken_holds", "old_results", "damaged")
        if value[name]
    ]
    problems += ["disk"] if most_disk > disk_limit else []
    problems += ["descriptors"] if value["most_descriptors"] > DESCRIPTORS else []
    problems += ["memory"] if late > 1.3 * early + 32 else []
    problems += ["nothing was evicted"] if not value["evicted"] else []
    problems += ["nothing was checked"] if not value["checked_leases"] else []
    print(json.dumps({**value, "problems": problems}, indent=2))
    return 1 if problems else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="a day of churn in minutes, with kills")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--capacity-mib", type=int, default=64)
    parser.add_argument("--day-s", type=float, default=20.0, help="how long a day takes")
    parser.add_argument("--longest-life-s", type=float, default=30.0)
    parser.add_argument("--durability", choices=("full", "none"), default="full")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--where", help="directory for the store (default: the temporary one)")
    for name, kind in (("directory", Path), ("life", int), ("epoch", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--last", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
