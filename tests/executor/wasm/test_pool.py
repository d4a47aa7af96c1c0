"""Worker processes and their supervisor."""

import asyncio
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from executor.errors import WorkerFailure
from executor.wasm import messages
from executor.wasm.nursery import Nursery
from executor.wasm.pool import WorkerProcess, WorkerSettings

DAEMON = """
import asyncio, sys
from pathlib import Path
from executor.wasm.nursery import Nursery
from executor.wasm.pool import WorkerProcess, WorkerSettings

async def main():
    nursery = Nursery()
    nursery.start()
    worker = WorkerProcess(WorkerSettings(Path(sys.argv[1]), {}, True), nursery)
    await worker.is_ready
    print(worker.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_worker_dies_with_its_daemon(tmp_path: Path) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(tmp_path)], stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    worker = os.pidfd_open(int(daemon.stdout.readline()))

    daemon.kill()
    daemon.wait()
    daemon.stdout.close()

    ended = select.select([worker], [], [], 10)
    os.close(worker)
    assert ended[0] == [worker]


class Impostor(Nursery):
    """Gives a process that does nothing, and its end of the socket to the test."""

    def fork(self, settings: Mapping[str, Any], jobs: int, words: int) -> tuple[int, int]:
        self.process = subprocess.Popen(["sleep", "60"])
        self.socket = socket.socket(fileno=os.dup(jobs))
        return self.process.pid, os.pidfd_open(self.process.pid)

    def close(self) -> None:
        self.socket.close()
        self.process.wait()


@pytest.mark.parametrize(
    "packet",
    [b"not json", b"[" * 30_000, b"[]", b"7", b"\0", b"\xff\xfe", b'{"end":'],
    ids=["text", "deep", "list", "number", "spilled", "bytes", "cut"],
)
async def test_worker_that_talks_nonsense_is_killed(tmp_path: Path, packet: bytes) -> None:
    nursery = Impostor()
    worker = WorkerProcess(WorkerSettings(tmp_path, {}, True), nursery)
    answer = worker.ask({"compile": True}, ())

    nursery.socket.send(packet)

    with pytest.raises(WorkerFailure, match="died at its work"):
        async with asyncio.timeout(10):
            await answer
    assert worker.ended.done()
    nursery.close()


def test_messages_of_any_size_arrive_with_their_descriptors() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sent = os.memfd_create("sent")
    with ours, theirs:
        for size in (0, 10, 32 << 10, 10 << 20):
            messages.send(ours, {"text": "x" * size}, [sent, sent])
            received = messages.receive(theirs, is_trusted=True)
            assert received is not None
            message, fds = received
            assert (len(message["text"]), len(fds)) == (size, 2)
            for fd in fds:
                assert not os.get_inheritable(fd)
                os.close(fd)
        messages.send(ours, {"text": "x" * (10 << 20)})
        with pytest.raises(ValueError, match="message"):
            messages.receive(theirs)
    os.close(sent)
