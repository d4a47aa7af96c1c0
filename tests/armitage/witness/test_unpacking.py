"""armitage.witness.unpacking: hostile archives."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from armitage.witness.unpacking import BadArchive, Bounds, File, Unpacking, unpack

BOUNDS = Bounds(entries=20, size_bytes=10_000)


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for info, content in members:
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(*members: tuple[str, bytes, int]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            made.writestr(info, content)
    return out.getvalue()


def unpacked(directory: Path, data: bytes) -> Unpacking:
    (directory / "archive").write_bytes(data)
    (directory / "into").mkdir()
    into = Unpacking(directory / "into", BOUNDS)
    unpack(directory / "archive", into)
    return into


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_tar_becomes_a_tree(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = tar_of(
        (member("./a/tool", mode=0o755), b"#!"),
        (member("a/b/file"), b"text"),
        (member("a/same", tarfile.LNKTYPE, linkname="a/tool"), b""),
        (member("a/b/up", tarfile.SYMTYPE, linkname="../tool"), b""),
        (member("empty", tarfile.DIRTYPE), b""),
    )

    into = unpacked(tmp_path, compress(data))

    a = into.part("a")
    assert a.files == {"tool": File(0, is_executable=True), "same": File(0, is_executable=True)}
    assert a.directories["b"].links == {"up": "../tool"}
    assert "empty" in into.root.directories
    assert [path.read_bytes() for path in into.contents] == [b"#!", b"text"]


def test_a_zip_becomes_a_tree(tmp_path: Path) -> None:
    data = zip_of(
        ("a/tool", b"#!", stat.S_IFREG | 0o755),
        ("a/link", b"tool", stat.S_IFLNK | 0o777),
        ("plain", b"text", 0),
        ("d/", b"", stat.S_IFDIR | 0o755),
    )

    into = unpacked(tmp_path, data)

    assert into.part("a").files == {"tool": File(0, is_executable=True)}
    assert into.part("a").links == {"link": "tool"}
    assert set(into.root.directories) == {"a", "d"}


SYMLINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (tar_of((member("/etc/passwd"), b"")), "no relative path"),
        (tar_of((member("a/../../b"), b"")), "leads out"),
        (tar_of((member("a\\b"), b"")), "no relative path"),
        (tar_of((member("l", SYMLINK, linkname="/etc"), b"")), "outside"),
        (tar_of((member("d/l", SYMLINK, linkname="../../x"), b"")), "outside"),
        (tar_of((member("l", SYMLINK, linkname="a/../../x"), b"")), "outside"),
        (
            tar_of((member("l", SYMLINK, linkname="d"), b""), (member("l/x"), b"")),
            "goes through 'l'",
        ),
        (tar_of((member("h", HARD, linkname="../x"), b"")), "leads out"),
        (tar_of((member("h", HARD, linkname="x"), b"")), "is not there"),
        (tar_of((member("f"), b""), (member("f/x"), b"")), "goes through 'f'"),
        (tar_of((member("f"), b""), (member("f", tarfile.DIRTYPE), b"")), "goes through 'f'"),
        (tar_of((member("p", tarfile.FIFOTYPE), b"")), "device"),
        (tar_of((member("c", tarfile.CHRTYPE), b"")), "device"),
        (tar_of((member("big"), bytes(10_001))), "more than 10000 bytes"),
        (
            gzip.compress(tar_of((member("big"), bytes(5_000_000))), mtime=0),
            "more than 10000 bytes",
        ),
        (tar_of(*((member(str(n)), b"") for n in range(21))), "more than 20 entries"),
        (tar_of((member("/".join("d" * 25)), b"")), "more than 20 entries"),
        (tar_of((member("a" * 256), b"")), "too deep or too long"),
        (tar_of((member("f"), b"abc"))[:700], "cannot be read"),
        (b"no archive at all", "cannot be read"),
        (gzip.compress(b"x" * 2000, mtime=0)[:-12], "cannot be read"),
        (zip_of(("../x", b"", 0)), "leads out"),
        (zip_of(("/x", b"", 0)), "no relative path"),
        (zip_of(("l", b"/etc", stat.S_IFLNK)), "outside"),
        (zip_of(("l", b"x" * 5000, stat.S_IFLNK)), "a link to nothing"),
        (zip_of(("p", b"", stat.S_IFIFO)), "device"),
        (zip_of(("big", bytes(1_000_000), 0)), "more than 10000 bytes"),
    ],
)
def test_a_hostile_archive_is_refused_in_words(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(BadArchive, match=complaint):
        unpacked(tmp_path, data)

    assert {path.name for path in tmp_path.iterdir()} == {"archive", "into"}
    assert all(path.name.isdecimal() for path in (tmp_path / "into").iterdir())


def test_a_header_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    info = member("x", tarfile.XHDTYPE)
    info.size = 8 << 30
    data = info.tobuf(format=tarfile.GNU_FORMAT)

    with pytest.raises(BadArchive, match="header that is too long"):
        unpacked(tmp_path, data + bytes(2000))


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    into = unpacked(tmp_path, tar_of((member("a/b"), b"")))

    with pytest.raises(BadArchive, match="no directory 'c'"):
        into.part("c")
