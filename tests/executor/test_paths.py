"""Paths are followed as the sandbox would, and never out of the input root."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.errors import InvalidInput
from executor.paths import join, locate, make_parents, open_directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "f").write_text("x")
    for name, target in {
        "to-b": "a/b",
        "back": "a/b/../f",
        "absolute": "/build/a/f",
        "elsewhere": "/build2/a",
        "top": "/build",
        "host": "/etc",
        "out": "../secret",
        "loop": "loop2",
        "loop2": "loop",
        "dangling": "a/none",
    }.items():
        (root / name).symlink_to(target)
    (tmp_path / "secret").write_text("secret")
    return root


@pytest.fixture
def fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("directory", "path", "joined"),
    [
        ("", "", ()),
        ("a/b", "../..", ()),
        ("a", "../b/./c", ("b", "c")),
        ("", "a//b/", ("a", "b")),
        ("x", "y", ("x", "y")),
    ],
)
def test_paths_are_joined_lexically(directory: str, path: str, joined: tuple[str, ...]) -> None:
    assert join(directory, path) == joined


@pytest.mark.parametrize(
    ("directory", "path"), [("", ".."), ("a", "../.."), ("..", "a"), ("", "/a"), ("/", "a")]
)
def test_path_that_leaves_the_root_is_invalid(directory: str, path: str) -> None:
    with pytest.raises(InvalidInput):
        join(directory, path)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a/f", ("a", "f")),
        ("to-b", ("a", "b")),
        ("back", ("a", "f")),
        ("absolute", ("a", "f")),
        ("top/to-b", ("a", "b")),
        ("", ()),
    ],
)
def test_links_inside_are_followed(fd: int, path: str, found: tuple[str, ...]) -> None:
    place = locate((fd,), [part for part in path.split("/") if part], "/build", follow_last=True)

    assert place is not None
    assert place.parts == found
    assert place.status is not None


@pytest.mark.parametrize(
    "path", ["host", "host/passwd", "out", "elsewhere", "loop", "a/f/below", "loop/x"]
)
def test_what_leads_outside_or_nowhere_is_not_found(fd: int, path: str) -> None:
    assert locate((fd,), path.split("/"), "/build", follow_last=True) is None


def test_dangling_link_leads_to_a_place_that_does_not_exist(fd: int) -> None:
    place = locate((fd,), ["dangling"], "/build", follow_last=True)

    assert place is not None
    assert place.status is None
    assert place.parts == ("a", "none")


def test_as_filesystem_root_absolute_links_stay_inside(fd: int, root: Path) -> None:
    (root / "etc").mkdir()
    (root / "up").symlink_to("../../../a")

    inside = locate((fd,), ["host"], "/", follow_last=True)
    up = locate((fd,), ["up"], "/", follow_last=True)

    assert inside is not None
    assert inside.parts == ("etc",)
    assert up is not None
    assert up.parts == ("a",)


def test_parents_are_made_and_dated(fd: int, root: Path) -> None:
    make_parents(fd, ["to-b", "c", "d"], "/build", 1000)

    for path in ("a/b", "a/b/c", "a/b/c/d"):
        assert (root / path).stat().st_mtime == 1000


@pytest.mark.parametrize("path", ["host/x", "out/x", "loop/x"])
def test_parents_outside_are_refused(fd: int, path: str) -> None:
    with pytest.raises(InvalidInput, match="link"):
        make_parents(fd, path.split("/"), "/build", 0)


def test_file_in_the_way_of_parents_is_left_to_the_command(fd: int, root: Path) -> None:
    make_parents(fd, ["a", "f", "x"], "/build", 0)

    assert (root / "a" / "f").read_text() == "x"


def test_directory_is_never_opened_through_a_link(fd: int) -> None:
    with pytest.raises(OSError):  # noqa: PT011 (the kernel's choice of errno)
        open_directory(fd, ["host"])
    with pytest.raises(OSError):  # noqa: PT011
        open_directory(fd, ["to-b", "x"])
