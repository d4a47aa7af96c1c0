"""A program that uses a pack store and its action cache, killed before each of its system calls in
turn: `crashing.py DIRECTORY`. Each run has its own sub-directory, with the names of what was
acknowledged in `acknowledged`. Some runs die in the middle of a write.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cas.digest import Digest, DigestFunction
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pack_store import PackOptions

CALLS = [
    "open", "close", "pwritev", "pwrite", "utime", "fdatasync", "fsync", "rename", "unlink",
    "mkdir", "truncate", "ftruncate",
]  # fmt: skip
INSTANCE = "main"


def blob(seed: int, size: int) -> tuple[Digest, bytes]:
    data = random.Random(seed).randbytes(size)
    return DigestFunction.SHA256.digest(data), data


BLOBS = [blob(seed, size) for seed, size in enumerate([10, 4096, 70_000, 1024 * 1024 + 1])]
"""Each round puts these; the store has room for them and little more."""
EVICTED = blob(99, 500_000)


async def use(root: Path, acknowledge: Callable[[str], object]) -> None:
    options = StorageOptions(PackOptions(max_bytes=1_500_000, min_lease_s=0))
    clocks = Clocks(time.monotonic, lambda: 1_700_000_000.0)
    storage = await PackStorage.open(root / "cas", options, clocks)
    store, cache = storage.store, storage.cache
    digest, data = EVICTED
    await store.put([digest], data)

    async def put(digest: Digest, data: bytes) -> None:
        await store.put([digest], data)
        acknowledge(f"blob {digest.hash}")

    async with asyncio.TaskGroup() as group:
        for digest, data in BLOBS[:3]:
            group.create_task(put(digest, data))
    digest, data = BLOBS[3]
    writer = await store.open_writer([digest])
    await writer.write(data)
    await writer.commit()
    acknowledge(f"blob {digest.hash}")
    for result in (b"old", b"new"):
        await cache.put(INSTANCE, digest, result)
        acknowledge(f"result {result.decode()}")
    await storage.close()


class Killer:
    """Ends the process without ado before the call of that number, or half way through a write."""

    def __init__(self, fatal: int) -> None:
        self._left = fatal
        self._pwritev = os.pwritev
        for name in CALLS:
            setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                if name == "pwritev":
                    fd, buffers, offset = args
                    data = b"".join(buffers)
                    self._pwritev(fd, [data[: len(data) // 2]], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped


def child(root: Path, fatal: int) -> None:
    fd = os.open(root / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    Killer(fatal)
    asyncio.run(use(root, lambda line: os.write(fd, line.encode() + b"\n")))
    os._exit(0)


def main(directory: Path) -> None:
    for fatal in range(1000):
        root = directory / str(fatal)
        root.mkdir()
        pid = os.fork()
        if not pid:
            child(root, fatal)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            return
    sys.exit("the program never came to its end")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
