from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from armitage.attest.together import Together, one_by_one


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Holding:
    """Doubles numbers, once it may."""

    def __init__(self) -> None:
        self.turns: list[list[int]] = []
        self.going = Event()

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.turns.append(list(items))
        assert self.going.wait(10)
        return [ValueError(item) if item < 0 else 2 * item for item in items]


async def ask(together: Together[int, int], *items: int) -> list[int | BaseException]:
    asked = asyncio.gather(*(together(item) for item in items), return_exceptions=True)
    await asyncio.sleep(0)
    return await asked


async def test_who_asks_meanwhile_shares_the_next_turn(threads: ThreadPoolExecutor) -> None:
    work = Holding()
    together = Together(work, threads)
    first = asyncio.ensure_future(together(1))  # noqa: TID251 (a caller of its own)
    await asyncio.sleep(0)
    rest = asyncio.ensure_future(ask(together, 2, 3, 4))  # noqa: TID251
    await asyncio.sleep(0)
    work.going.set()

    assert await first == 2
    assert await rest == [4, 6, 8]
    assert work.turns[0] == [1]
    assert len(work.turns) == 2


async def test_error_is_raised_where_it_was_asked_for(threads: ThreadPoolExecutor) -> None:
    work = Holding()
    work.going.set()

    found = await ask(Together(work, threads), 1, -1, 2)

    assert found[0] == 2
    assert isinstance(found[1], ValueError)
    assert found[2] == 4


async def test_failing_work_fails_for_all(threads: ThreadPoolExecutor) -> None:
    def fail(_: Sequence[int]) -> list[int | Exception]:
        raise OSError("disk on fire")

    found = await ask(Together(fail, threads), 1, 2)

    assert all(isinstance(each, OSError) for each in found)


async def test_cancelled_caller_takes_nobody_along(threads: ThreadPoolExecutor) -> None:
    work = Holding()
    together = Together(work, threads)
    first = asyncio.ensure_future(together(1))  # noqa: TID251
    second = asyncio.ensure_future(together(2))  # noqa: TID251
    await asyncio.sleep(0)

    first.cancel()
    await asyncio.sleep(0)
    work.going.set()

    assert await second == 4
    assert first.cancelled()


async def test_one_by_one_keeps_errors_apart(threads: ThreadPoolExecutor) -> None:
    found = await ask(Together(one_by_one(lambda item: 6 // item), threads), 1, 0, 3)

    assert (found[0], found[2]) == (6, 2)
    assert isinstance(found[1], ZeroDivisionError)
