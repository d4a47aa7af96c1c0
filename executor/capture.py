"""What a command prints: read from a pipe as it comes, kept in bounded memory, stored at last."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO

from cas.digest import Digest, DigestFunction
from cas.files import write_all
from cas.store import BlobStore

_READ_BYTES = 64 * 1024
_IN_MEMORY_BYTES = 256 * 1024
_CHUNK_BYTES = 1 << 20
_READ_AFTER_S = 0.005
"""A command that ends sooner is read in one go: hearing of each line costs more than reading it. A
pipe holds 64 KiB, so that few wait for us.
"""


class Capture:
    """One of a command's two output streams. Owned by the event loop.

    Over the limit the rest is read and dropped, so that the command does not block, and a line
    saying so ends what is kept.
    """

    def __init__(
        self,
        function: DigestFunction,
        spool: str,
        limit_bytes: int,
        forward: Callable[[bytes], None],
    ) -> None:
        """Reads soon. `write_fd` is for the command; close it once that is started.

        What does not fit in memory goes to the file `spool`.
        """
        self._loop = asyncio.get_running_loop()
        self._function = function
        self._hasher = function.hasher()
        self._spool = spool
        self._limit_bytes = limit_bytes
        self._forward = forward
        self._head = bytearray()
        self._file: BinaryIO | None = None
        self._size = 0
        self.is_truncated = False
        self.error: OSError | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(_READ_AFTER_S, self._start)

    def _start(self) -> None:
        self._timer = None
        self._loop.add_reader(self._read_fd, self._read)

    def _read(self) -> bool:
        """Answers whether there was anything."""
        try:
            data = os.read(self._read_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._take(data)
        else:
            self.stop()
        return bool(data)

    def _take(self, data: bytes) -> None:
        if self.is_truncated:
            return
        room = self._limit_bytes - self._size
        if len(data) > room:
            self.is_truncated = True
            data = data[:room] + b"\n[truncated: over the limit of %d bytes]\n" % self._limit_bytes
        try:
            self._keep(data)
        except OSError as error:  # Scratch space is full; the command must not block on it.
            self.error = error
            self.is_truncated = True
        self._forward(data)

    def _keep(self, data: bytes) -> None:
        if self._file is None and len(self._head) + len(data) > _IN_MEMORY_BYTES:
            self._file = open(self._spool, "x+b", buffering=0)  # noqa: SIM115 (closed by close)
            write_all(self._file.fileno(), [self._head])
            self._head = bytearray()
        if self._file is None:
            self._head += data
        else:
            write_all(self._file.fileno(), [data])
        self._hasher.update(data)
        self._size += len(data)

    def drain(self) -> None:
        """Reads all that has been printed, once nobody prints any more."""
        while not self.ended.done() and self._read():
            pass

    def stop(self) -> None:
        """Reads no more, whoever may still hold the other end. Idempotent."""
        if not self.ended.done():
            if self._timer is None:
                self._loop.remove_reader(self._read_fd)
            else:
                self._timer.cancel()
                self._timer = None
            os.close(self._read_fd)
            self.ended.set_result(None)

    def close_write_end(self) -> None:
        """Closes our copy of the command's end. Idempotent."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close(self) -> None:
        """Frees descriptors. Idempotent."""
        self.close_write_end()
        self.stop()
        if self._file is not None:
            self._file.close()
            self._file = None

    def beginning(self) -> str:
        """Answers the first bytes of a short stream as text, for messages."""
        return self._head[:4096].decode(errors="replace").strip()

    def replace(self, text: str) -> None:
        """Puts a message in the place of all that was kept so far, which is in memory."""
        self._hasher = self._function.hasher()
        self._head = bytearray()
        self._size = 0
        self._keep(text.encode())

    async def store(self, store: BlobStore) -> Digest:
        """Stores what was kept and answers its digest.

        Raises OSError when scratch space ran out while the command printed.
        """
        if self.error is not None:
            raise self.error
        if self._size == 0:
            return self._function.empty
        digest = Digest(self._function, self._hasher.hexdigest(), self._size)
        if self._file is None:
            return await store.put([digest], bytes(self._head))
        writer = await store.open_writer([digest])
        try:
            async for chunk in self._chunks(self._file):
                await writer.write(chunk)
            return await writer.commit()
        finally:
            await writer.abort()

    async def _chunks(self, file: BinaryIO) -> AsyncIterator[bytes]:
        # Read on the event loop: a megabyte just written comes from the page cache.
        file.seek(0)
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
