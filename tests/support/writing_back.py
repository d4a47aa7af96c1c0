"""A program that writes to tiers in write-back until it is killed: `writing_back.py DIRECTORY`.

The remote never answers. What is acknowledged is printed, a digest or an action a line.
"""

import asyncio
import itertools
import os
import random
import sys
import time
from pathlib import Path

from support.remote import RemoteCache, RemoteStore, Trouble

from cas.digest import DigestFunction
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pending import DiskPending
from cas.tiered import TierOptions
from cas.tiers import Elsewhere, Here, Tiers

INSTANCE = "main"


async def main(directory: Path) -> None:
    clocks = Clocks(time.monotonic, lambda: 1_700_000_000.0)
    here = await PackStorage.open(directory / "cas", StorageOptions(), clocks)
    trouble = Trouble()
    trouble.gate.clear()
    tiers = Tiers(
        Here(here.store, here.cache),
        Elsewhere(RemoteStore(trouble), RemoteCache(trouble)),
        TierOptions(),
        await DiskPending.open(directory / "pending"),
        monotonic=time.monotonic,
        chance=lambda: 0.0,
    )
    async with tiers, asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(write(tiers, number))


async def write(tiers: Tiers, number: int) -> None:
    chances = random.Random(number + os.getpid())
    for _ in itertools.count():
        data = chances.randbytes(chances.choice([10, 5000, 200_000]))
        digest = DigestFunction.SHA256.digest(data)
        if chances.random() < 0.3:
            writer = await tiers.store.open_writer([digest])
            await writer.write(data)
            await writer.commit()
        else:
            await tiers.store.put([digest], data)
        os.write(1, f"blob {digest}\n".encode())
        await tiers.cache.put(INSTANCE, digest, data[:10])
        os.write(1, f"result {digest}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
