"""Pack stores and their caches for tests."""

from pathlib import Path
from typing import NamedTuple

from support.clock import FakeClock

from cas.digest import Digest
from cas.keys import key_of, names
from cas.large_files import SMALL_BYTES
from cas.log import FOLDER
from cas.pack_action_cache import CacheOptions
from cas.pack_storage import Clocks, PackStorage, StorageOptions
from cas.pack_store import PackOptions

TINY_SEGMENTS = 1 << 18
"""So that a test has many."""


async def open_storage(
    directory: Path,
    clock: FakeClock,
    options: PackOptions | None = None,
    cache_options: CacheOptions | None = None,
) -> PackStorage:
    made = StorageOptions(options or PackOptions(), cache_options or CacheOptions(), TINY_SEGMENTS)
    return await PackStorage.open(directory, made, Clocks(clock.monotonic, clock.wall))


class Place(NamedTuple):
    """Where bytes are on disk."""

    path: Path
    offset: int
    size_bytes: int


def place_of(directory: Path, digest: Digest) -> Place:
    """A large blob's file, or a small one's body in the one segment that has it whole."""
    if digest.size_bytes > SMALL_BYTES:
        [path] = (directory / "blobs").rglob(f"{digest.hash}-*")
        return Place(path, 0, digest.size_bytes)
    key = key_of(digest)
    places = []
    for path in (directory / FOLDER).iterdir():
        data = path.read_bytes()
        start = data.find(key) + len(key)
        while start >= len(key):
            if names(key, data[start : start + digest.size_bytes]):
                places.append(Place(path, start, digest.size_bytes))
            start = data.find(key, start) + len(key)
    [place] = places
    return place
