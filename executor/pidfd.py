"""Waiting for processes on the event loop, and killing them without hitting another's pid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal


class PidWatch:
    """One process, until it has ended. Owned by the event loop."""

    def __init__(self, pidfd: int, *, is_child: bool) -> None:
        """Takes over the descriptor, from os.pidfd_open. A child is left for its parent to reap."""
        self._loop = asyncio.get_running_loop()
        self._fd = pidfd
        self._is_child = is_child
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._notice)

    def _notice(self) -> None:
        self._loop.remove_reader(self._fd)
        if not self._is_child:
            # An orphan comes to us when we are the init process of a container.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        os.close(self._fd)
        self.ended.set_result(None)

    def kill(self) -> None:
        """Sends SIGKILL unless the process has ended."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
