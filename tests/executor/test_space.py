"""Who goes when scratch space gets short, and how what actions take is measured."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.errors import WorkerFailure
from executor.process import Ending
from executor.scratch import Shortage
from executor.space import Space, SpaceWatch, Taken, measure

NOBODY = 65534
SHORT = Shortage("too little")
FEW_FILES = Shortage("too few files", is_of_files=True)


def filled(place: Path, *, size_bytes: int = 0, files: int = 1) -> str:
    place.mkdir()
    for number in range(files):
        (place / str(number)).write_bytes(b"x" * size_bytes)
    return str(place)


class TestMeasuring:
    def test_what_is_allocated_counts_and_holes_do_not(self, tmp_path: Path) -> None:
        filled(tmp_path / "full", size_bytes=1 << 20)
        with (tmp_path / "sparse").open("wb") as sparse:
            sparse.truncate(1 << 40)

        taken = measure(str(tmp_path), 10)

        assert 1 << 20 <= taken.size_bytes < 2 << 20
        assert (taken.entries, taken.is_hidden) == (3, False)

    def test_a_file_of_two_names_counts_once(self, tmp_path: Path) -> None:
        filled(tmp_path / "full", size_bytes=1 << 20)
        os.link(tmp_path / "full" / "0", tmp_path / "again")

        assert measure(str(tmp_path), 10).size_bytes < 2 << 20

    def test_links_lead_nowhere(self, tmp_path: Path) -> None:
        filled(tmp_path / "full", size_bytes=1 << 20)
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "link").symlink_to(tmp_path / "full")

        assert measure(str(tmp_path / "own"), 10).size_bytes < 1 << 20

    def test_a_look_ends_with_its_time(self, tmp_path: Path) -> None:
        filled(tmp_path / "full", size_bytes=1 << 20)

        assert measure(str(tmp_path), 0) == Taken()

    @pytest.fixture
    def own(self) -> Iterator[Path]:
        """A directory of a user without privileges, who we are meanwhile."""
        with tempfile.TemporaryDirectory() as made:  # Unlike tmp_path, below what others may enter.
            own = Path(made)
            if os.geteuid() != 0:
                yield own
                return
            os.chown(own, NOBODY, NOBODY)
            os.seteuid(NOBODY)
            try:
                yield own
            finally:
                os.seteuid(0)

    def test_a_closed_directory_is_told_and_stays_closed(self, own: Path) -> None:
        (own / "closed").mkdir(mode=0)

        assert measure(str(own), 10).is_hidden
        assert (own / "closed").stat().st_mode & 0o777 == 0

    def test_what_the_kernel_keeps_of_an_overlay_hides_nothing(self, own: Path) -> None:
        (own / "root.work").mkdir()
        (own / "root.work" / "work").mkdir(mode=0)

        assert not measure(str(own), 10).is_hidden


class TestShortage:
    @staticmethod
    async def go(space: Space, directory: str) -> None:
        with space.running(directory):
            assert await space.must_go(directory, lambda: SHORT)
            raise WorkerFailure("killed")

    async def test_whoever_has_most_goes_and_others_wait_until_its_files_are_gone(
        self, tmp_path: Path
    ) -> None:
        space = Space()
        small = filled(tmp_path / "small", size_bytes=1 << 12, files=4)
        large = filled(tmp_path / "large", size_bytes=1 << 20)
        with space.running(small), space.running(large):
            assert await space.must_go(small, lambda: SHORT) is None
            taken = await space.must_go(large, lambda: SHORT)
            assert taken is not None
            assert taken.size_bytes >= 1 << 20
            assert await space.must_go(small, lambda: SHORT) is None

            space.gone(large)
            assert await space.must_go(small, lambda: None) is None

    async def test_the_next_goes_when_that_did_not_do(self, tmp_path: Path) -> None:
        space = Space()
        small = filled(tmp_path / "small")
        large = filled(tmp_path / "large", size_bytes=1 << 20)
        with space.running(small):
            with pytest.raises(WorkerFailure):
                await self.go(space, large)
            assert await space.must_go(small, lambda: SHORT) is None
            space.gone(large)

            assert await space.must_go(small, lambda: SHORT)

    async def test_of_files_it_is_whoever_has_most_of_them(self, tmp_path: Path) -> None:
        space = Space()
        many = filled(tmp_path / "many", files=20)
        large = filled(tmp_path / "large", size_bytes=1 << 20)
        with space.running(many), space.running(large):
            assert await space.must_go(large, lambda: FEW_FILES) is None
            assert await space.must_go(many, lambda: FEW_FILES)

    async def test_nobody_waits_for_one_that_ended_before_it_was_told(self, tmp_path: Path) -> None:
        space = Space()
        small = filled(tmp_path / "small")
        large = filled(tmp_path / "large", size_bytes=1 << 20)
        with space.running(small):
            with space.running(large):
                assert await space.must_go(small, lambda: SHORT) is None

            assert await space.must_go(small, lambda: SHORT)

    async def test_one_that_has_left_already_takes_nothing(self, tmp_path: Path) -> None:
        space = Space()
        small = filled(tmp_path / "small")
        left = filled(tmp_path / "left", size_bytes=1 << 20)
        with space.running(small), space.running(left):
            shutil.rmtree(left)

            assert await space.must_go(small, lambda: SHORT)


class TestWatch:
    async def test_what_is_over_its_limit_ends_at_it(self, tmp_path: Path) -> None:
        large = filled(tmp_path / "large", size_bytes=3 << 20)

        ending = await self.watch(large, limit_bytes=2 << 20).stop()

        assert isinstance(ending, Ending)
        assert (ending.exit_code, ending.is_over_limit) == (137, True)
        assert "it took 3 MiB of scratch space, over the limit of 2 MiB" in ending.message

    async def test_what_is_below_its_limit_goes_on(self, tmp_path: Path) -> None:
        large = filled(tmp_path / "large", size_bytes=3 << 20)

        assert await self.watch(large, limit_bytes=4 << 20).stop() == ""

    async def test_nothing_is_looked_at_without_limit_and_shortage(self, tmp_path: Path) -> None:
        assert await self.watch(str(tmp_path / "missing"), limit_bytes=None).stop() == ""

    async def test_room_is_saved_before_anybody_goes(self, tmp_path: Path) -> None:
        shortages = [SHORT, None]

        async def save_room() -> None:
            shortages.pop(0)

        watch = SpaceWatch(Space(), str(tmp_path), None, lambda: shortages[0], save_room)

        assert await watch.stop() == ""
        assert shortages == [None]

    @staticmethod
    def watch(directory: str, limit_bytes: int | None) -> SpaceWatch:
        async def save_room() -> None:
            raise AssertionError("nothing is short")

        return SpaceWatch(Space(), directory, limit_bytes, lambda: None, save_room)
