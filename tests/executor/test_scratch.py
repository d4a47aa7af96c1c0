"""Scratch space: nothing is left, whatever an action made of it."""

import os
from pathlib import Path

import pytest

from executor.errors import SandboxUnavailable, WorkerFailure
from executor.scratch import Scratch, remove_tree


def test_tree_of_any_modes_is_removed(tmp_path: Path) -> None:
    (tmp_path / "trash").mkdir()
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "f").write_text("x")
    (tree / "a" / "link").symlink_to("/etc")
    os.mkfifo(tree / "a" / "fifo")
    (tree / "a" / "b").chmod(0)
    (tree / "a").chmod(0)
    tree.chmod(0)

    remove_tree(tree, tmp_path / "trash")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["trash"]
    assert list((tmp_path / "trash").iterdir()) == []
    assert Path("/etc/passwd").exists()


def test_what_a_link_points_at_stays(tmp_path: Path) -> None:
    (tmp_path / "trash").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "f").write_text("x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")

    remove_tree(tmp_path / "tree", tmp_path / "trash")

    assert (tmp_path / "kept" / "f").read_text() == "x"


def test_only_leftovers_are_removed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "work" / "old" / "root").mkdir(parents=True)
    (tmp_path / "precious").write_text("kept")

    scratch = Scratch(tmp_path)
    scratch.close()

    assert list((tmp_path / "work").iterdir()) == []
    assert (tmp_path / "precious").read_text() == "kept"


def test_second_user_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    first = Scratch(tmp_path)
    with pytest.raises(SandboxUnavailable, match="another process"):
        Scratch(tmp_path)
    first.close()

    Scratch(tmp_path).close()


def test_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SandboxUnavailable, match="configure another"):
        Scratch(tmp_path / "file" / "scratch")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden"])
def test_name_that_would_leave_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    scratch = Scratch(tmp_path)
    try:
        with pytest.raises(WorkerFailure, match="cannot name"):
            scratch.make(name)
    finally:
        scratch.close()


def test_name_in_use_is_refused(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    try:
        scratch.make("one")
        with pytest.raises(WorkerFailure, match="exists"):
            scratch.make("one")
    finally:
        scratch.close()
