"""Store time: it never goes backwards, whatever the wall clock and the power do."""

import pytest
from support.clock import FakeClock
from support.fragile_volume import FragileVolume

from cas.store_time import StoreTime


def start(volume: FragileVolume, clock: FakeClock) -> StoreTime:
    return StoreTime(volume, clock.monotonic, clock.wall)


@pytest.fixture
def volume() -> FragileVolume:
    return FragileVolume()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_first_time_is_the_wall_clock(volume: FragileVolume, clock: FakeClock) -> None:
    assert start(volume, clock).now() == clock.wall()


def test_time_runs_on_over_a_restart(volume: FragileVolume, clock: FakeClock) -> None:
    first = start(volume, clock)
    clock.advance(100)
    first.save()
    clock.advance(50)

    assert start(volume, clock).now() == first.now()


@pytest.mark.parametrize("step_s", [-3600.0, -1e9, 3600.0])
def test_step_of_the_wall_clock_during_a_run_is_not_seen(
    volume: FragileVolume, clock: FakeClock, step_s: float
) -> None:
    time = start(volume, clock)
    before = time.now()

    clock.step_wall(step_s)
    clock.advance(10)

    assert time.now() == before + 10


def test_step_back_while_stopped_stops_the_time(volume: FragileVolume, clock: FakeClock) -> None:
    before = start(volume, clock).now()

    clock.step_wall(-1e6)

    assert start(volume, clock).now() == before


def test_note_that_is_there_in_part_is_not_believed(
    volume: FragileVolume, clock: FakeClock
) -> None:
    start(volume, clock)
    note = bytes(volume.names["clock"].data)

    for end in range(len(note)):
        volume.names["clock"].data[:] = note[:end]
        assert start(volume, clock).now() == clock.wall(), note[:end]
    volume.names["clock"].data[:] = note.replace(b" ", b"9 ", 1)
    assert start(volume, clock).now() == clock.wall()


def test_time_is_moved_on_to_what_is_known_to_have_been(
    volume: FragileVolume, clock: FakeClock
) -> None:
    time = start(volume, clock)

    time.not_before(clock.wall() + 500)
    time.not_before(clock.wall() - 500)

    assert time.now() == clock.wall() + 500


def test_failure_to_note_is_no_error(volume: FragileVolume, clock: FakeClock) -> None:
    time = start(volume, clock)
    volume.fatal = volume.operations

    time.save()

    assert time.now() == clock.wall()
