"""What an action prints, where its guest leaves that on a disk: copied as far as the guest says."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

_CHUNK_BYTES = 64 << 10


class Printed:
    """Copies one stream from its disk to a pipe. Owned by the event loop.

    A guest is believed how far to read, within a limit, and never to go back.
    """

    def __init__(self, disk: Path, pipe: int, limit_bytes: int) -> None:
        """Keeps a descriptor of its own for `pipe`, which somebody must read. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._limit_bytes = limit_bytes
        self._done = self._wanted = 0
        self._is_last = False
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when all is copied, after `end`; has an OSError when that failed."""
        self._disk = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
        self._pipe = os.dup(pipe)
        os.set_blocking(self._pipe, False)

    def reach(self, length: int) -> None:
        """Copies up to so many bytes of all, soon."""
        self._wanted = max(self._wanted, min(length, self._limit_bytes))
        self._copy()

    def end(self) -> None:
        """Closes the pipe once all is copied. Idempotent."""
        self._is_last = True
        self._copy()

    def _copy(self) -> None:
        if self.ended.done():
            return
        self._loop.remove_writer(self._pipe)
        try:
            while self._done < self._wanted:
                # Read on the event loop: what was just written comes from the page cache.
                size = min(_CHUNK_BYTES, self._wanted - self._done)
                data = os.pread(self._disk, size, self._done)
                if not data:  # Here the disk ends, whatever the guest says.
                    self._wanted = self._done
                else:
                    self._done += os.write(self._pipe, data)
        except BlockingIOError:
            self._loop.add_writer(self._pipe, self._copy)
            return
        except OSError as error:
            self._close()
            self.ended.set_exception(error)
            return
        if self._is_last:
            self._close()
            self.ended.set_result(None)

    def _close(self) -> None:
        os.close(self._disk)
        os.close(self._pipe)
