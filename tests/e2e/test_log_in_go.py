"""The log, verified by code that is not ours: Go's golang.org/x/mod/sumdb."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import go

from armitage.log.note import KeyType, Signer
from armitage.log.store import NAMES, LogStore
from armitage.log.tiles import tiles
from cas.volume import DiskVolume

MISSING = go.unavailable()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(MISSING is not None, reason=MISSING or ""),
]
LOG = Signer("log.example/armitage", KeyType.ED25519, bytes(range(32)))
SIZE = 70_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a log of three levels of tiles serves, as files."""
    store = LogStore(DiskVolume(tmp_path_factory.mktemp("log"), NAMES), LOG)
    for first in range(0, SIZE, 3000):
        store.append([b"entry %d" % n for n in range(first, min(SIZE, first + 3000))])
    directory = tmp_path_factory.mktemp("served")
    for tile in tiles(SIZE):
        path = directory / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(tile))
    (directory / "checkpoint").write_bytes(store.signed_checkpoint)
    store.close()
    return directory


def verify(directory: Path, key: Signer = LOG) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [go.TLOG, directory, str(key.public)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_entries_and_earlier_trees_are_proven(served: Path) -> None:
    done = verify(served)

    sampled = sum(n % 97 == 0 or n > SIZE - 300 for n in range(SIZE))
    assert done.stdout == (
        f"{LOG.public.name}: {SIZE} entries, {sampled} proven, {sampled} trees\n"
    ), done.stderr


def test_another_key_is_refused(served: Path) -> None:
    done = verify(served, Signer(LOG.public.name, KeyType.ED25519, bytes(32)))

    assert done.returncode != 0


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def shrink(content: bytes) -> bytes:
    return content.replace(b"\n70000\n", b"\n69999\n")


@pytest.mark.parametrize(
    ("name", "change"),
    [("tile/entries/000", flip), ("tile/0/000", flip), ("checkpoint", shrink)],
)
def test_what_was_changed_is_refused(
    served: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    path = served / name
    before = path.read_bytes()
    path.write_bytes(change(before))
    try:
        assert verify(served).returncode != 0
    finally:
        path.write_bytes(before)
