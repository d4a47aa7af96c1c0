"""Lanes: pieces in their order, in threads that are shared."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import pytest

from cas.lanes import Lane


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_pieces_are_worked_on_in_their_order(pool: ThreadPoolExecutor) -> None:
    seen: list[int] = []
    lane = Lane(pool.submit, seen.append)

    wait([lane.put(number) for number in range(1000)])

    assert seen == list(range(1000))


def test_lane_that_ran_empty_goes_on_with_the_next_piece(pool: ThreadPoolExecutor) -> None:
    seen: list[int] = []
    lane = Lane(pool.submit, seen.append)

    for number in range(20):
        lane.put(number).result()

    assert seen == list(range(20))


def test_error_ends_the_lane(pool: ThreadPoolExecutor) -> None:
    seen: list[int] = []

    def work(piece: int) -> None:
        if piece == 2:
            raise ValueError(piece)
        seen.append(piece)

    lane = Lane(pool.submit, work)
    done = [lane.put(number) for number in range(10)]
    wait(done)

    assert [future.exception() is None for future in done] == [True] * 2 + [False] * 8
    with pytest.raises(ValueError, match="2"):
        lane.put(10).result()
    assert seen == [0, 1]


def test_stopped_lane_ends_the_piece_in_work_and_drops_the_rest(pool: ThreadPoolExecutor) -> None:
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def work(piece: int) -> None:
        begun.set()
        go_on.wait()
        seen.append(piece)

    lane = Lane(pool.submit, work)
    done = [lane.put(number) for number in range(10)]
    begun.wait()
    stopping = pool.submit(lane.stop)
    with pytest.raises(CancelledError):
        done[9].result()
    go_on.set()
    stopping.result()

    assert seen == [0]
    assert done[0].result() is None
    lane.stop()


def test_busy_lane_lets_others_have_its_thread() -> None:
    order: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        lane = Lane(pool.submit, order.append)
        gate = threading.Event()
        pool.submit(gate.wait)
        last = [lane.put("lane") for _ in range(20)][-1]
        other = pool.submit(order.append, "other")
        gate.set()
        wait([last, other])

    assert order.index("other") < len(order) - 10


def test_pool_that_takes_nothing_fails_the_piece() -> None:
    def refuse(_: Callable[[], None]) -> None:
        raise RuntimeError("shut down")

    lane = Lane(refuse, print)

    with pytest.raises(RuntimeError, match="shut down"):
        lane.put(1)
