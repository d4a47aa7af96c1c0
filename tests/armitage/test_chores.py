import asyncio

import pytest

from armitage.chores import Chores


async def test_chores_are_done_each_period_until_the_context_ends() -> None:
    done: list[str] = []
    twice = asyncio.Event()

    async def slow() -> None:
        done.append("slow")
        if done.count("slow") == 2:
            twice.set()

    async with Chores(0.001, [lambda: done.append("quick")], [slow]):
        await twice.wait()
    count = len(done)
    await asyncio.sleep(0.005)

    assert done[:4] == ["quick", "slow", "quick", "slow"]
    assert len(done) == count


async def test_a_failing_chore_ends_the_context() -> None:
    def fail() -> None:
        raise RuntimeError("broken chore")

    with pytest.raises((ExceptionGroup, asyncio.CancelledError)):
        async with Chores(0.001, [fail], []):
            await asyncio.Event().wait()
