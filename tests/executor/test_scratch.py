"""Scratch space: nothing is left, whatever an action made of it."""

import os
from collections.abc import Callable
from concurrent.futures import wait
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


def test_a_directory_with_little_in_it_is_emptied_for_another_action(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    one = scratch.make("one")
    (one / "root" / "below").mkdir(parents=True)
    (one / "root" / "below" / "f").write_text("x")
    inode = one.stat().st_ino

    assert scratch.discard_little(one)
    two = scratch.make("two")

    assert not one.exists()
    assert (two.stat().st_ino, list(two.iterdir())) == (inode, [])
    scratch.close()
    assert [*(tmp_path / "trash").iterdir(), *(tmp_path / "grave").iterdir()] == []


def test_the_inputs_of_an_ordinary_action_are_little(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    one = scratch.make("one")
    for name in ("root", "tmp", "network"):
        (one / name).mkdir()
    for number in range(31):  # The largest tree that is copied where overlays work.
        (one / "root" / str(number)).write_text("x")

    assert scratch.discard_little(one)

    scratch.close()
    assert [*(tmp_path / "work").iterdir(), *(tmp_path / "grave").iterdir()] == []


def test_few_directories_wait_for_another_action_and_all_are_empty(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    places = [scratch.make(str(number)) for number in range(40)]

    for place in places:
        (place / "root").mkdir()
        assert scratch.discard_little(place)

    scratch.close()
    waiting = list((tmp_path / "spare").iterdir())
    assert len(waiting) == 32
    assert [path for place in waiting for path in place.iterdir()] == []
    assert list((tmp_path / "work").iterdir()) == []


def test_little_is_removed_whatever_its_modes(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    one = scratch.make("one")
    (one / "root" / "below").mkdir(parents=True)
    (one / "root" / "below").chmod(0o500)
    (one / "root").chmod(0o500)

    assert scratch.discard_little(one)
    scratch.close()

    assert [*(tmp_path / "work").iterdir(), *(tmp_path / "grave").iterdir()] == []


def test_what_rm_does_not_remove_is_removed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.scratch._RM", "/bin/false")
    scratch = Scratch(tmp_path)
    for name in ("one", "two"):
        place = scratch.make(name)
        (place / "root").mkdir()
        (place / "root" / "f").write_text("x")
        assert scratch.discard_little(place)

    scratch.close()

    assert [*(tmp_path / "trash").iterdir(), *(tmp_path / "grave").iterdir()] == []


def test_what_cannot_be_removed_is_told_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.scratch._GATHER_S", 0)
    monkeypatch.setattr("executor.scratch._RM", str(tmp_path / "no-rm"))
    scratch = Scratch(tmp_path)
    one, two = scratch.make("one"), scratch.make("two")
    (one / "root").mkdir()
    assert scratch.discard_little(one)
    wait(scratch._reaping)

    with pytest.raises(FileNotFoundError, match="no-rm"):
        scratch.discard_little(two)

    scratch.close()


def test_a_directory_is_not_used_for_ever(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    new = 0
    for number in range(30):
        path = scratch.make(str(number))
        new += path.stat().st_mode & 0o777 == 0o700
        path.chmod(0o750)  # To be known again.
        (path / "root").mkdir()
        for name in range(10):
            (path / "root" / str(name)).touch()
        assert scratch.discard_little(path)
    scratch.close()

    assert 1 < new < 10


def _fill_with_many(path: Path) -> None:
    for number in range(60):
        (path / "root" / str(number)).write_text("")


def _fill_with_a_large_file(path: Path) -> None:
    with (path / "root" / "large").open("wb") as file:
        file.truncate(2 << 20)


def _fill_beside(path: Path) -> None:
    (path / "stdout").write_text("")


@pytest.mark.parametrize("fill", [_fill_with_many, _fill_with_a_large_file, _fill_beside])
def test_what_takes_long_is_left_to_discard(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    scratch = Scratch(tmp_path)
    path = scratch.make("one")
    (path / "root").mkdir()
    fill(path)

    assert not scratch.discard_little(path)
    scratch.discard(path)

    assert list((tmp_path / "work").iterdir()) == []
    scratch.close()
