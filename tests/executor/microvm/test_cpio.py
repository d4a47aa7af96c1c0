"""cpio archives: what we write, cpio(1) reads, and damage is told from data."""

from __future__ import annotations

import io
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.microvm import cpio

ITEMS = [
    cpio.directory("d"),
    cpio.file("d/f", b"hello", 0o755),
    cpio.link("l", "d/f"),
    cpio.file("empty", b""),
]


def read(data: bytes) -> list[tuple[str, int, bytes]]:
    reader = cpio.Reader(io.BytesIO(data))
    return [(entry.name, entry.mode, b"".join(reader.data())) for entry in reader.entries()]


def test_what_is_packed_is_read_back() -> None:
    assert read(cpio.pack(ITEMS)) == [
        ("d", stat.S_IFDIR | 0o755, b""),
        ("d/f", stat.S_IFREG | 0o755, b"hello"),
        ("l", stat.S_IFLNK | 0o777, b"d/f"),
        ("empty", stat.S_IFREG | 0o644, b""),
    ]


@pytest.mark.skipif(not shutil.which("busybox"), reason="apt-get install busybox-static")
def test_busybox_unpacks_what_we_pack(tmp_path: Path) -> None:
    subprocess.run(["busybox", "cpio", "-i"], input=cpio.pack(ITEMS), cwd=tmp_path, check=True)

    assert (tmp_path / "l").read_bytes() == b"hello"
    assert (tmp_path / "d" / "f").stat().st_mode & 0o777 == 0o755


def test_data_that_nobody_reads_is_passed_over() -> None:
    reader = cpio.Reader(io.BytesIO(cpio.pack(ITEMS)))

    assert [entry.name for entry in reader.entries()] == ["d", "d/f", "l", "empty"]


def test_every_truncation_is_noticed() -> None:
    data = cpio.pack(ITEMS)
    for length in range(len(data)):
        with pytest.raises(cpio.BadArchive):
            read(data[:length])


@given(st.data())
def test_damage_never_does_worse_than_a_bad_archive(data: st.DataObject) -> None:
    archive = bytearray(cpio.pack(ITEMS))
    at = data.draw(st.integers(0, len(archive) - 1))
    archive[at] = data.draw(st.integers(0, 255))
    try:
        read(bytes(archive))
    except cpio.BadArchive:
        return


@pytest.mark.parametrize(
    ("field", "value"), [(11, b"00000000"), (11, b"00001001"), (6, b"zzzzzzzz")]
)
def test_fields_that_cannot_be_are_refused(field: int, value: bytes) -> None:
    archive = bytearray(cpio.pack([cpio.file("f", b"x")]))
    archive[6 + 8 * field : 14 + 8 * field] = value

    with pytest.raises(cpio.BadArchive):
        read(bytes(archive))
