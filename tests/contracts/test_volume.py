"""What every Volume promises (cas.volume): the disk's, and the one in memory that tests take the
power from.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fragile_volume import FragileVolume

from cas.volume import DiskVolume, Volume


@pytest.fixture(params=["disk", "fragile"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    made: Volume = FragileVolume()
    if request.param == "disk":
        made = DiskVolume(tmp_path / "volume", frozenset({"a", "b", "file", "other"}))
    yield made
    made.close()


def write(volume: Volume, name: str, data: bytes) -> None:
    file = volume.create(name)
    file.write([data], 0)
    file.close()


def read(volume: Volume, name: str) -> bytes:
    return volume.open(name).read(1 << 20, 0)


def test_what_is_written_is_read(volume: Volume) -> None:
    file = volume.create("file")

    file.write([b"abc", b"", bytearray(b"def"), memoryview(b"ghi")], 0)
    file.write([b"XY"], 4)
    file.sync()

    assert file.read(100, 0) == b"abcdXYghi"
    assert read(volume, "file") == b"abcdXYghi"
    assert file.read(3, 5) == b"Ygh"
    assert file.read(3, 100) == b""


def test_gap_is_zeros(volume: Volume) -> None:
    file = volume.create("file")

    file.write([b"end"], 5)

    assert file.read(100, 0) == b"\0\0\0\0\0end"


def test_very_many_pieces_are_written(volume: Volume) -> None:
    pieces = [b"%d," % number for number in range(5000)]
    file = volume.create("file")

    file.write(pieces, 3)

    assert file.read(1 << 20, 3) == b"".join(pieces)


@pytest.mark.parametrize("size", [1, 100_000])
def test_cached_reads_are_exact_or_none(volume: Volume, size: int) -> None:
    data = os.urandom(size)
    write(volume, "file", data)
    file = volume.open("file")

    assert file.read_cached(size, 0) in {data, None}
    assert file.read_cached(size - size // 2, size // 2) in {data[size // 2 :], None}


def test_truncated_file_ends_there(volume: Volume) -> None:
    file = volume.create("file")
    file.write([b"abcdef"], 0)

    file.truncate(2)

    assert file.read(100, 0) == b"ab"
    assert file.id().size_bytes == 2


def test_name_that_is_taken_is_not_created(volume: Volume) -> None:
    write(volume, "file", b"mine")

    with pytest.raises(FileExistsError):
        volume.create("file")

    assert read(volume, "file") == b"mine"


def test_what_is_not_there_is_not_opened(volume: Volume) -> None:
    with pytest.raises(FileNotFoundError):
        volume.open("file")
    with pytest.raises(FileNotFoundError):
        volume.create("a/file")
    with pytest.raises(FileNotFoundError):
        volume.rename("file", "other")
    with pytest.raises(FileNotFoundError):
        volume.sync_folder("a")


def test_renamed_file_takes_the_place_of_another(volume: Volume) -> None:
    write(volume, "file", b"new")
    write(volume, "other", b"old")
    old = volume.open("other")

    volume.rename("file", "other")

    assert read(volume, "other") == b"new"
    assert old.read(100, 0) == b"old"
    with pytest.raises(FileNotFoundError):
        volume.open("file")


def test_removed_file_is_read_on_by_who_has_it_open(volume: Volume) -> None:
    write(volume, "file", b"data")
    file = volume.open("file")

    volume.remove("file")
    volume.remove("file")

    assert file.read(100, 0) == b"data"
    with pytest.raises(FileNotFoundError):
        volume.open("file")


def test_folders_are_made_and_scanned_with_those_below(volume: Volume) -> None:
    volume.make_folder("a/x/y")
    volume.make_folder("a/x")
    volume.make_folder("b")
    for name in ("a/1", "a/x/y/2", "b/3"):
        write(volume, name, name.encode())
    for folder in ("", "a", "a/x", "a/x/y"):
        volume.sync_folder(folder)

    assert sorted(found.name for found in volume.scan("a")) == ["a/1", "a/x/y/2"]
    assert {found.name: found.id.size_bytes for found in volume.scan("b")} == {"b/3": 3}
    assert volume.folders("a") == ["a", "a/x", "a/x/y"]


def test_identity_tells_files_and_changes_apart(volume: Volume) -> None:
    write(volume, "file", b"data")
    before = volume.open("file").id()
    assert volume.open("file").id() == before

    write(volume, "other", b"data")
    assert volume.open("other").id() != before
    file = volume.open("file", write=True)
    file.set_mtime(1000.5)
    assert file.id() != before
    assert file.id().mtime_ns == 1_000_500_000_000


def test_copy_is_a_new_file_with_that_mode(volume: Volume, tmp_path: Path) -> None:
    write(volume, "file", b"0123456789")

    volume.open("file").copy_to(str(tmp_path / "copy"), 0o755, 7, threading.Event())

    assert (tmp_path / "copy").read_bytes() == b"0123456"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o755


def test_closing_twice_is_no_error(volume: Volume) -> None:
    file = volume.create("file")

    file.close()
    file.close()
    volume.close()
    volume.close()
