"""Plain files outside of any store."""

import errno
import os
import threading
from pathlib import Path

import pytest

from cas import files
from cas.digest import Buffer


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(3_000_000))
    return path


def copy(source: Path, size_bytes: int, target: Path) -> None:
    with source.open("rb") as file:
        files.copy_to_new(file.fileno(), size_bytes, str(target), 0o640, threading.Event())


@pytest.mark.parametrize("size_bytes", [0, 1, 65_536, 65_537, 3_000_000])
def test_copy_has_the_first_bytes(source: Path, tmp_path: Path, size_bytes: int) -> None:
    copy(source, size_bytes, tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == source.read_bytes()[:size_bytes]
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o640


def test_copy_works_where_the_kernel_cannot_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", refuse)

    copy(source, 3_000_000, tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("size_bytes", [10, 3_000_000])
def test_copy_of_a_file_that_was_cut_short_fails_naming_the_copy(
    source: Path, tmp_path: Path, size_bytes: int
) -> None:
    os.truncate(source, size_bytes - 1)

    with pytest.raises(OSError, match=r"cut short.*copy"):
        copy(source, size_bytes, tmp_path / "copy")


def test_mode_is_exact_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_new_file(str(tmp_path / "file"), 0o755, b"")
    finally:
        os.umask(before)

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o755


def test_new_file_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        files.write_new_file(str(tmp_path / "link"), 0o644, b"data")

    assert not (tmp_path / "elsewhere").exists()


def test_writes_that_the_kernel_cuts_short_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writev_a_little(fd: int, buffers: list[memoryview]) -> int:
        return os.write(fd, b"".join(buffers)[:7])

    monkeypatch.setattr(os, "writev", writev_a_little)
    buffers: list[Buffer] = [b"abc", b"", bytearray(b"defghijklm"), memoryview(b"nopqrstuvwxyz")]

    with (tmp_path / "file").open("wb") as file:
        files.write_all(file.fileno(), buffers)

    assert (tmp_path / "file").read_bytes() == b"abcdefghijklmnopqrstuvwxyz"


def test_more_buffers_than_one_call_takes_are_written(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        files.write_all(file.fileno(), [b"%d," % number for number in range(3000)])

    assert (tmp_path / "file").read_bytes() == b"".join(b"%d," % n for n in range(3000))
