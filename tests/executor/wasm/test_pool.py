"""Worker processes and their supervisor."""

import os
import select
import subprocess
import sys
from pathlib import Path

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
