"""A guest's archive lands at the outputs' places, and nowhere else, whatever it says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from executor.errors import InvalidOutput, WorkerFailure
from executor.microvm import cpio
from executor.microvm.unpack import Unpacker, outermost


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An input root, with something around it that nobody may touch."""
    root = tmp_path / "root"
    (root / "out").mkdir(parents=True)
    (root / "out" / "old").write_text("an input")
    (root / "kept").write_text("an input")
    os.symlink("..", root / "up")
    os.symlink("out", root / "alias")
    (tmp_path / "outside").write_text("ours")
    return root


def unpack(root: Path, outputs: list[str], *items: cpio.Item, archive: bytes = b"") -> None:
    file = root.parent / "archive"
    file.write_bytes(archive or cpio.pack(items))
    parts = [tuple(part for part in output.split("/") if part) for output in outputs]
    Unpacker(str(root), parts, "/build").unpack(file, root.parent / "trash")


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_outputs_take_the_place_of_what_was_there(root: Path) -> None:
    unpack(
        root,
        ["out", "tool"],
        cpio.directory("out"),
        cpio.file("out/new", b"1"),
        cpio.link("out/l", "new"),
        cpio.file("./tool", b"2", 0o755),
    )

    assert names(root) == {"out", "out/new", "out/l", "tool", "kept", "up", "alias"}
    assert (root / "out" / "l").read_text() == "1"
    assert os.access(root / "tool", os.X_OK)


def test_output_that_the_guest_does_not_send_is_gone(root: Path) -> None:
    unpack(root, ["out"])

    assert "out" not in names(root)


def test_whole_root_can_be_the_output(root: Path) -> None:
    unpack(root, [""], cpio.directory("."), cpio.file("a", b"1"))

    assert names(root) == {"a"}


def test_output_below_a_link_of_the_inputs_lands_where_it_leads(root: Path) -> None:
    unpack(root, ["alias/f"], cpio.file("alias/f", b"1"))

    assert (root / "out" / "f").read_text() == "1"


@pytest.mark.parametrize(
    "item",
    [
        cpio.file("../outside", b"x"),
        cpio.file("out/../../outside", b"x"),
        cpio.file("/etc/outside", b"x"),
        cpio.file("kept", b"x"),
        cpio.file("outs", b"x"),
    ],
)
def test_what_nobody_asked_for_is_refused(root: Path, item: cpio.Item) -> None:
    with pytest.raises(WorkerFailure):
        unpack(root, ["out"], item)

    assert (root / "kept").read_text() == "an input"
    assert (root.parent / "outside").read_text() == "ours"


def test_link_of_the_guest_is_never_followed(root: Path) -> None:
    with pytest.raises((WorkerFailure, OSError)):
        unpack(root, ["out"], cpio.link("out", "../.."), cpio.file("out/outside", b"x"))

    assert (root.parent / "outside").read_text() == "ours"


def test_link_of_the_inputs_leads_nowhere_outside(root: Path) -> None:
    unpack(root, ["up/outside"], cpio.file("up/outside", b"x"))

    assert (root.parent / "outside").read_text() == "ours"


def test_file_that_comes_twice_is_refused(root: Path) -> None:
    with pytest.raises(WorkerFailure, match="contradict"):
        unpack(root, ["f"], cpio.file("f", b"1"), cpio.file("f", b"2"))


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_special_files_are_invalid_outputs(root: Path, kind: int) -> None:
    with pytest.raises(InvalidOutput, match="socket"):
        unpack(root, ["f"], cpio.Item("f", kind | 0o666))


def test_privileges_do_not_come_over(root: Path) -> None:
    unpack(root, ["f"], cpio.file("f", b"1", 0o7755))

    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o755


def test_damaged_archive_is_the_workers_failure(root: Path) -> None:
    with pytest.raises(WorkerFailure, match="cannot be read"):
        unpack(root, ["f"], archive=cpio.pack([cpio.file("f", b"1")])[:-30])


def test_names_of_one_file_share_its_data(root: Path) -> None:
    first = bytearray(cpio.pack([cpio.file("out/a", b"")]))
    second = bytearray(cpio.pack([cpio.file("out/b", b"data")]))
    for archive in (first, second):
        archive[6 + 8 * 4 : 14 + 8 * 4] = b"00000002"
    end = cpio.pack([])
    top = cpio.pack([cpio.directory("out")])[: -len(end)]

    unpack(root, ["out"], archive=top + bytes(first[: -len(end)]) + bytes(second))

    assert (root / "out" / "a").read_text() == "data"
    assert (root / "out" / "b").read_text() == "data"


def test_output_inside_another_comes_with_that_one() -> None:
    asked = [("d", "f"), ("d",), ("e",), ("d",), ("dd",)]

    assert outermost(asked) == [("d",), ("e",), ("dd",)]
    assert outermost([("d",), ()]) == [()]
