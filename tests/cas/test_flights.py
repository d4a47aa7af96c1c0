import asyncio

import pytest

from cas.errors import StoreUnavailable
from cas.flights import Flights


class Work:
    """Work that ends when told."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.gate.wait()
        finally:
            self.ended += 1
        if self.error is not None:
            raise self.error
        return self.begun


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_thousand_share_one_piece_of_work() -> None:
    work = Work()
    async with asyncio.TaskGroup() as group:
        flights = Flights[str, int](group)
        tasks = [group.create_task(flights.join("a", work)) for _ in range(1000)]
        await settle()
        work.gate.set()

    assert {task.result() for task in tasks} == {1}
    assert (work.begun, flights.shared) == (1, 999)


async def test_error_reaches_all_and_does_not_stay() -> None:
    work = Work()
    work.error = StoreUnavailable("down")
    async with asyncio.TaskGroup() as group:
        flights = Flights[str, int](group)

        async def refused() -> None:
            with pytest.raises(StoreUnavailable, match="down"):
                await flights.join("a", work)

        for _ in range(3):
            group.create_task(refused())
        await settle()
        work.gate.set()
        await settle()
        work.error = None

        assert await flights.join("a", work) == 2


async def test_other_keys_do_not_wait() -> None:
    slow, quick = Work(), Work()
    quick.gate.set()
    async with asyncio.TaskGroup() as group:
        flights = Flights[str, int](group)
        waiting = group.create_task(flights.join("slow", slow))

        assert await flights.join("quick", quick) == 1
        assert not waiting.done()
        slow.gate.set()


async def test_work_goes_on_while_anybody_waits() -> None:
    work = Work()
    async with asyncio.TaskGroup() as group:
        flights = Flights[str, int](group)
        first, second = (group.create_task(flights.join("a", work)) for _ in range(2))
        await settle()

        first.cancel()
        await settle()
        assert work.ended == 0
        work.gate.set()

    assert second.result() == 1


async def test_work_ends_when_nobody_waits_and_begins_anew() -> None:
    work = Work()
    async with asyncio.TaskGroup() as group:
        flights = Flights[str, int](group)
        first = group.create_task(flights.join("a", work))
        await settle()

        first.cancel()
        await settle()
        assert work.ended == 1
        work.gate.set()

        assert await flights.join("a", work) == 2


async def test_stop_makes_it_unavailable() -> None:
    async with asyncio.TaskGroup() as group:
        flights = Flights[str, int](group)

        async def refused() -> None:
            with pytest.raises(StoreUnavailable):
                await flights.join("a", Work())

        group.create_task(refused())
        await settle()
        flights.stop()
