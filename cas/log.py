"""An append-only log of records with group commit: what the pack store and its action cache keep.

Theory of operation. Records (cas.records) are appended to segments, files of up to 256 MiB in
`packs/`. One thread writes: it takes whatever jobs have gathered while it was busy, writes their
records in one go, syncs once, and only then are all of them acknowledged. It also gives finished
large files their names and removes files, so that those share folder syncs in the same way. The
order of a group is

    1. files are removed
    2. records are written, and the segment is synced (a new one's name in `packs/` as well)
    3. finished files, synced before by whoever wrote them, are renamed, and their folders synced
    4. all jobs of the group are acknowledged

so what is acknowledged is durable, and the acknowledged records of a segment are a prefix of it.

A full segment is sealed: a table of what is in it goes to its end. A start reads the tables only.
The segment of a process that did not end well has none: its records are checked one by one, what
follows the last whole one was never acknowledged and is cut off, and the rest is synced before
anybody hears of it, since the process that is gone may not have come to that. Bytes in the middle
that are no record are damage: passed over and reported.

When a write fails the segment is cut back to where it was. When a sync fails nobody knows what the
disk has, and asking again would not tell: the segment is left as it is and another one begun.

A location is a segment's number, an offset in it, and whether the body is encoded.

State is owned by the event loop of whoever started the log, save what only the thread uses (marked)
and the open files (guarded by a lock).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple

from cas.digest import Buffer
from cas.errors import CasError, StoreFull, StoreUnavailable
from cas.locations import LOCATION_BITS
from cas.records import (
    ALIGNMENT,
    HEADER_BYTES,
    SALT_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER_BYTES,
    Damaged,
    Header,
    Kind,
    Record,
    Table,
    decode,
    decode_header,
    encode,
    parse_trailer,
    record_bytes,
    salt_of,
    segment_header,
    trailer,
)
from cas.volume import File, FileId, Volume

_log = logging.getLogger(__name__)

FOLDER = "packs"
SEGMENT_BYTES = 256 << 20
_MOST_RECORDS = 1 << 17
"""In a segment: a table this long is read, and a segment without one is checked, in a second."""
_GROUP_BYTES = 16 << 20
_OPEN_FILES = 128
_WINDOW_BYTES = 1 << 20
_UNITS_BITS = 24
_NUMBER_SHIFT = _UNITS_BITS + 1
_MOST_SEGMENTS = 1 << (LOCATION_BITS - _NUMBER_SHIFT)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def store_error(error: OSError) -> CasError:
    """Turns an operating system error into the store error that a caller acts on."""
    if error.errno in _NO_ROOM:
        return StoreFull(f"the disk is full: {error}")
    return StoreUnavailable(f"the store's disk does not work: {error}")


def locate(number: int, offset: int, *, is_encoded: bool) -> int:
    """Makes a location."""
    return number << _NUMBER_SHIFT | offset // ALIGNMENT << 1 | is_encoded


def segment_of(location: int) -> int:
    """The number of the segment that a location is in."""
    return location >> _NUMBER_SHIFT


def is_encoded(location: int) -> bool:
    """Whether the body there is encoded, so that the blob's size is not its size."""
    return bool(location & 1)


def offset_of(location: int) -> int:
    """Where a record begins in its segment."""
    return (location >> 1 & (1 << _UNITS_BITS) - 1) * ALIGNMENT


class Segment(NamedTuple):
    """What a segment weighs."""

    number: int
    size_bytes: int
    live_bytes: int
    """Of records that are still current. The rest comes free when the segment is compacted."""
    is_active: bool
    """It is being written, and is not to be compacted."""


class Draft(NamedTuple):
    """A file that is written but has not got its name yet."""

    file: File
    draft: str
    """The name that it has now."""
    name: str
    """The name that it is to get."""


@dataclass(eq=False, slots=True)
class Job:
    """Something to be done by the log's thread, as a whole or not at all."""

    done: Callable[[Job], object]
    """Called on the event loop at the end, whatever it is."""
    records: Sequence[Record] = ()
    is_durable: bool = True
    """Whether to sync before it is done. If not, what is written outlives the process only."""
    publish: Draft | None = None
    """A synced file that is to get its name."""
    remove: Sequence[str] = ()
    """Files; those that cannot be removed are logged."""
    locations: list[int] = field(default_factory=list)
    """Of the records, once done."""
    file_id: FileId | None = None
    """Of what was published, once done."""
    error: BaseException | None = None
    size_bytes: int = 0
    """Of all records."""

    def __post_init__(self) -> None:
        self.size_bytes = sum(
            [record_bytes(len(record.key), len(record.body)) for record in self.records]
        )


class _Active:
    """The segment that is being written. The thread's."""

    def __init__(self, number: int, file: File, salt: bytes) -> None:
        self.number = number
        self.file = file
        self.salt = salt
        self.size_bytes = SEGMENT_HEADER_BYTES
        self.table = Table()


class Log:
    """Records on disk. A location names one for as long as its segment is kept."""

    def __init__(
        self,
        volume: Volume,
        make_salt: Callable[[int], bytes],
        *,
        sync: bool,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Finds the segments that there are. Blocks. Raises OSError."""
        assert segment_bytes <= ALIGNMENT << _UNITS_BITS
        self._volume = volume
        self._make_salt = make_salt
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._active: _Active | None = None
        self._active_number = 0
        self._is_suspect = False
        self._folders: set[str] = set()
        self._files: OrderedDict[int, File] = OrderedDict()
        self._files_lock = threading.Lock()
        self._live_bytes: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self.lost_bytes = 0
        """Of what was damaged in the middle of segments without a table."""
        self._ensure_folder(FOLDER)
        for found in volume.scan(FOLDER):
            number = _number_of(found.name)
            if number is None:
                _log.warning("file %s/%s is none of the store's", volume.root, found.name)
            else:
                self._live_bytes[number] = 0
                self._sizes[number] = found.id.size_bytes
        self._next_number = max(self._sizes, default=0) + 1

    # Starting

    def replay(self) -> Iterator[tuple[int, Table]]:
        """Answers each segment's table, in the order in which they were written, and makes whole
        what a process left that did not end well. Blocks. Raises OSError.
        """
        for number in sorted(self._sizes):
            table = self._load(number) or self._recover(number)
            if len(table):
                yield number, table
            else:
                self._volume.remove(_name(number))
                del self._sizes[number], self._live_bytes[number]

    def start(self) -> None:
        """Begins to take jobs, from the running event loop only."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="cas-log", daemon=True)
        self._thread.start()

    def _load(self, number: int) -> Table | None:
        """Answers the table of a sealed segment, or None."""
        file = self._file(number)
        size_bytes = file.id().size_bytes
        end = parse_trailer(file.read(TRAILER_BYTES, max(0, size_bytes - TRAILER_BYTES)))
        if end is None:
            return None
        try:
            record = decode(file.read(size_bytes - TRAILER_BYTES - end[0], end[0]))
            return Table.decode(record.body)
        except Damaged as damage:
            _log.warning("the table of %s/%s is damaged: %s", self._root, _name(number), damage)
            return None

    @property
    def _root(self) -> str:
        return self._volume.root

    def _recover(self, number: int) -> Table:
        """Makes a segment whole that has no table, and answers what is in it."""
        file = self._volume.open(_name(number), write=True)
        try:
            return self._make_whole(number, file)
        finally:
            file.close()

    def _make_whole(self, number: int, file: File) -> Table:
        size_bytes = self._sizes[number]
        salt = _salt_in(file)
        table, end, lost_bytes = _collect(file, salt, size_bytes)
        if lost_bytes:
            _log.warning("%d bytes of %s/%s are damaged", lost_bytes, self._root, _name(number))
            self.lost_bytes += lost_bytes
        if not len(table):
            return table
        if size_bytes > end:
            _log.info(
                "cut %d unfinished bytes off %s/%s", size_bytes - end, self._root, _name(number)
            )
            file.truncate(end)
        self._sizes[number] = self._seal(_name(number), file, salt, table, end)
        if self._sync:
            file.sync()
        return table

    # Asking

    def submit(self, job: Job) -> None:
        """Takes a job; jobs are done in the order of their submission."""
        if self._thread is not None:
            self._queue.put(job)
            return
        job.error = StoreUnavailable("the store is closed")
        asyncio.get_running_loop().call_soon(job.done, job)

    def read(self, location: int, size_bytes: int | None) -> Record:
        """Reads a record and checks it. Blocks. Raises Damaged, OSError.

        The size is that of the record where the caller knows it.
        """
        file = self._file(segment_of(location))
        offset = offset_of(location)
        if size_bytes is None:
            size_bytes = self._size_at(file, offset)
        return decode(file.read(size_bytes, offset))

    def read_cached(self, location: int, size_bytes: int) -> Record | None:
        """Reads a record and checks it when that needs no waiting for the disk, else answers None.

        Raises Damaged, OSError.
        """
        data = self._file(segment_of(location)).read_cached(size_bytes, offset_of(location))
        return None if data is None else decode(data)

    def record_bytes(self, location: int) -> int:
        """Answers how much of its segment a record takes. Blocks. Raises Damaged, OSError."""
        return self._size_at(self._file(segment_of(location)), offset_of(location))

    def key_at(self, location: int, key_bytes: int) -> bytes:
        """Answers a record's key as it stands there, unchecked, if it has that size. Blocks."""
        return self._file(segment_of(location)).read(key_bytes, offset_of(location) + HEADER_BYTES)

    def raw(self, location: int, size_bytes: int) -> bytes:
        """Answers the bytes there, whatever they are. Blocks."""
        return self._file(segment_of(location)).read(size_bytes, offset_of(location))

    @staticmethod
    def _size_at(file: File, offset: int) -> int:
        data = file.read(HEADER_BYTES, offset)
        if len(data) < HEADER_BYTES:
            raise Damaged("the segment ends in mid-record")
        return decode_header(data).size_bytes

    def keep(self, location: int, size_bytes: int) -> None:
        """Says that a record is current, for Segment.live_bytes."""
        self._live_bytes[segment_of(location)] += size_bytes

    def suspect(self, location: int) -> None:
        """Says that a record was found damaged: nothing more is written to a segment like that."""
        if segment_of(location) == self._active_number:
            self._is_suspect = True

    def release(self, location: int, size_bytes: int) -> None:
        """Says that a record is not current any more."""
        self._live_bytes[segment_of(location)] -= size_bytes

    def segments(self) -> list[Segment]:
        """Answers all segments, oldest first."""
        active = self._active_number
        return [
            Segment(number, self._sizes.get(number, 0), live_bytes, number == active)
            for number, live_bytes in sorted(self._live_bytes.items())
        ]

    def garbage_bytes(self) -> int:
        """Answers how much of the segments is not current."""
        return sum(self._sizes.values()) - sum(self._live_bytes.values())

    def table(self, number: int) -> Table:
        """Answers what is in a segment that is not active. Blocks. Raises OSError."""
        table = self._load(number)
        if table is not None:
            return table
        file = self._file(number)
        return _collect(file, _salt_in(file), file.id().size_bytes)[0]

    def drop(self, number: int) -> None:
        """Deletes a segment that is not active; what is current of it must be durable elsewhere.

        Durable when it returns. Blocks. Raises OSError.
        """
        self._volume.remove(_name(number))
        if self._sync:
            self._volume.sync_folder(FOLDER)
        with self._files_lock:
            self._files.pop(number, None)

    def dropped(self, number: int) -> None:
        """Forgets a segment that drop has deleted."""
        del self._live_bytes[number]
        self._sizes.pop(number, None)

    def has(self, number: int) -> bool:
        """Whether a segment is kept."""
        return number in self._live_bytes

    def _file(self, number: int) -> File:
        with self._files_lock:
            file = self._files.get(number)
            if file is None:
                file = self._files[number] = self._volume.open(_name(number))
                if len(self._files) > _OPEN_FILES:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(number)
            return file

    # In the thread

    def _run(self) -> None:
        assert self._loop is not None
        is_open = True
        while is_open:
            jobs: list[Job] = []
            size_bytes = 0
            while not jobs or (size_bytes < _GROUP_BYTES and self._queue.qsize()):
                job = self._queue.get()
                if job is None:
                    is_open = False
                    break
                jobs.append(job)
                size_bytes += job.size_bytes
            try:
                self._commit(jobs)
            except Exception as bug:  # noqa: BLE001 (the boundary of a thread: callers hear of it)
                for job in jobs:
                    job.error = job.error or bug
            if jobs:
                self._loop.call_soon_threadsafe(self._settle, jobs)
        self._close_segment()

    def _commit(self, jobs: Sequence[Job]) -> None:
        # A blob that has gone may be back in the same group, but never the other way round, since
        # nothing goes before it is acknowledged.
        for job in jobs:
            for name in job.remove:
                self._remove(name)
        self._append([job for job in jobs if job.records])
        self._publish([job for job in jobs if job.publish and not job.error])

    def _remove(self, name: str) -> None:
        try:
            self._volume.remove(name)
        except OSError as error:
            _log.warning("cannot remove %s/%s: %s", self._root, name, error)

    def _append(self, jobs: Sequence[Job]) -> None:
        at = 0
        while at < len(jobs):
            end = at + 1
            try:
                active = self._segment_for(jobs[at])
                end = self._end_of_run(active, jobs, at)
                self._write(active, jobs[at:end])
            except OSError as error:
                if end - at > 1:
                    # Together they did not fit; alone one or the other may.
                    for job in jobs[at:end]:
                        self._append([job])
                else:
                    jobs[at].error = error
            at = end

    def _segment_for(self, job: Job) -> _Active:
        """Answers the segment that takes the job's records, which may be a new one."""
        active = self._active
        if active is not None and (self._is_suspect or not self._has_room(active, 0, job)):
            self._close_segment()
        self._is_suspect = False
        return self._active or self._begin_segment()

    def _has_room(self, active: _Active, before_bytes: int, job: Job) -> bool:
        if not len(active.table) and not before_bytes:
            return True  # Where it does not fit in an empty one it does not fit anywhere.
        end = active.size_bytes + before_bytes + job.size_bytes
        return end <= self._segment_bytes and len(active.table) < _MOST_RECORDS

    def _end_of_run(self, active: _Active, jobs: Sequence[Job], at: int) -> int:
        """Answers how many of the jobs from there on go to the segment together."""
        size_bytes = 0
        for number in range(at, len(jobs)):
            if not self._has_room(active, size_bytes, jobs[number]):
                return number
            size_bytes += jobs[number].size_bytes
        return len(jobs)

    def _write(self, active: _Active, jobs: Sequence[Job]) -> None:
        """Appends the records of jobs to a segment. Raises OSError, and then nothing is changed."""
        buffers: list[Buffer] = []
        rows: list[tuple[Record, int]] = []
        at, salt = active.size_bytes, active.salt
        base = locate(active.number, 0, is_encoded=False)
        for job in jobs:
            locations = []
            for record in job.records:
                _, key, body, _, encoding = record
                buffers += encode(record, salt)
                rows.append((record, at))
                # `locate` and `record_bytes`, without two calls for each record.
                locations.append(base | at // ALIGNMENT << 1 | (encoding != 0))
                at += HEADER_BYTES + len(key) + len(body) + ALIGNMENT - 1 & -ALIGNMENT
            job.locations = locations
        self._flush(active, buffers, rows, is_durable=any(job.is_durable for job in jobs))

    def _flush(
        self,
        active: _Active,
        buffers: Sequence[Buffer],
        rows: Sequence[tuple[Record, int]],
        *,
        is_durable: bool,
    ) -> None:
        try:
            active.file.write(buffers, active.size_bytes)
        except OSError:
            self._cut_back(active)
            raise
        if self._sync and is_durable:
            try:
                active.file.sync()
            except OSError:
                self._active = None
                active.file.close()
                raise
        active.table.extend(rows)
        last, offset = rows[-1]
        active.size_bytes = offset + last.size_bytes

    def _cut_back(self, active: _Active) -> None:
        try:
            active.file.truncate(active.size_bytes)
        except OSError as error:
            _log.warning("cannot cut back %s/%s: %s", self._root, _name(active.number), error)

    def _begin_segment(self) -> _Active:
        number = self._next_number
        if number >= _MOST_SEGMENTS:
            raise OSError(errno.EFBIG, "the log has had all the segments that it can number")
        salt = self._make_salt(SALT_BYTES)
        # Never twice, lest a file that was made in vain should be in the way.
        self._next_number += 1
        file = self._volume.create(_name(number))
        try:
            file.write([segment_header(salt)], 0)
            if self._sync:
                self._volume.sync_folder(FOLDER)
        except OSError:
            file.close()
            self._remove(_name(number))
            raise
        self._active = _Active(number, file, salt)
        return self._active

    def _close_segment(self) -> None:
        active, self._active = self._active, None
        if active is None:
            return
        name, end = _name(active.number), active.size_bytes
        if len(active.table):
            active.size_bytes = self._seal(name, active.file, active.salt, active.table, end)
        else:
            self._remove(name)
        active.file.close()

    def _seal(self, name: str, file: File, salt: bytes, table: Table, end: int) -> int:
        """Puts the table to the end of a segment, and answers the size it has then. Without one the
        next start has more to do, and nothing else is wrong.
        """
        record = Record(Kind.TABLE, b"", table.encode())
        pieces = [*encode(record, salt), trailer(end, salt)]
        try:
            file.write(pieces, end)
            if self._sync:
                file.sync()
        except OSError as error:
            _log.warning("cannot seal %s/%s: %s", self._root, name, error)
            return end
        return end + sum(map(len, pieces))

    def _publish(self, jobs: Sequence[Job]) -> None:
        renamed: dict[str, list[tuple[Job, Draft]]] = {}
        for job in jobs:
            draft = job.publish
            assert draft is not None
            folder = draft.name.rpartition("/")[0]
            try:
                self._ensure_folder(folder)
                self._volume.rename(draft.draft, draft.name)
                job.file_id = draft.file.id()
            except OSError as error:
                job.error = error
            else:
                renamed.setdefault(folder, []).append((job, draft))
        if not self._sync:
            return
        for folder, within in renamed.items():
            try:
                self._volume.sync_folder(folder)
            except OSError as error:
                for job, draft in within:
                    job.error = error
                    self._remove(draft.name)

    def _ensure_folder(self, folder: str) -> None:
        """Makes a folder that is there to stay."""
        if folder in self._folders:
            return
        self._volume.make_folder(folder)
        parent = folder
        while self._sync and parent:
            parent = parent.rpartition("/")[0]
            self._volume.sync_folder(parent)
        self._folders.add(folder)

    # Back on the event loop

    def _settle(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.error is None:
                if job.locations:  # A job's records are never in two segments.
                    number = segment_of(job.locations[0])
                    end = offset_of(job.locations[-1]) + job.records[-1].size_bytes
                    self._sizes[number] = end
                    live_bytes = self._live_bytes.get(number, 0) + _live_bytes_of(job)
                    self._live_bytes[number] = live_bytes
                    self._active_number = number
            elif isinstance(job.error, OSError):
                job.error = store_error(job.error)
            try:
                job.done(job)
            except Exception:  # noqa: BLE001 (others of the group are to hear of theirs)
                _log.exception("cannot tell the end of a job of the log")

    async def close(self) -> None:
        """Does what was submitted, seals the segment and ends the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)
        with self._files_lock:
            self._files.clear()


def _live_bytes_of(job: Job) -> int:
    if job.records[0].kind is Kind.BLOB:  # And so are the others.
        return job.size_bytes
    return sum([record.size_bytes for record in job.records if record.kind is Kind.RESULT])


def _name(number: int) -> str:
    return f"{FOLDER}/{number:08d}.pack"


def _number_of(name: str) -> int | None:
    stem = name.removeprefix(f"{FOLDER}/").removesuffix(".pack")
    return int(stem) if stem.isascii() and stem.isdigit() and _name(int(stem)) == name else None


def _salt_in(file: File) -> bytes:
    start = file.read(SEGMENT_HEADER_BYTES + HEADER_BYTES, 0)
    return salt_of(start) or start[-SALT_BYTES:]


def _collect(file: File, salt: bytes, size_bytes: int) -> tuple[Table, int, int]:
    """Finds what is in a segment without a table, where that ends, and how many bytes before are
    damaged.

    What follows damage may be of a group that was never acknowledged and is there in part only. A
    blob or a result is all there or not; but that something is gone may have come with what was to
    take its place, so that is not believed.
    """
    table, end, lost_bytes = Table(), SEGMENT_HEADER_BYTES, 0
    for offset, key, header in _scan(file, salt, size_bytes):
        lost_bytes += offset - end
        end = offset + header.size_bytes
        if not lost_bytes or header.kind != Kind.GONE:
            table.add_found(key, header, offset)
    return table, end, lost_bytes


def _scan(file: File, salt: bytes, size_bytes: int) -> Iterator[tuple[int, bytes, Header]]:
    """Finds the whole records of a segment, with offset and key, passing over what is none."""
    window, start = b"", 0
    at = SEGMENT_HEADER_BYTES
    while at + HEADER_BYTES <= size_bytes:
        if not start <= at <= start + len(window) - HEADER_BYTES:
            window, start = file.read(_WINDOW_BYTES, at), at
            if len(window) < HEADER_BYTES:
                return
        header = decode_header(window, at - start)
        if header.salt != salt or at + header.size_bytes > size_bytes:
            at = _next_salt(window, start, at, salt)
            continue
        begin = at - start
        data = window[begin : begin + header.size_bytes]
        if len(data) < header.size_bytes:
            data = file.read(header.size_bytes, at)
        try:
            record = decode(data)
        except Damaged:
            at += ALIGNMENT
            continue
        if record.kind is not Kind.TABLE:
            yield at, record.key, header
        at += header.size_bytes


def _next_salt(window: bytes, start: int, at: int, salt: bytes) -> int:
    """Answers where the next record may begin, or where to read on."""
    salt_at = HEADER_BYTES - SALT_BYTES
    found = window.find(salt, at - start + salt_at + 1)
    if found >= 0:
        return (start + found - salt_at + ALIGNMENT - 1) & -ALIGNMENT
    return max(at + ALIGNMENT, (start + len(window) - HEADER_BYTES) & -ALIGNMENT)
