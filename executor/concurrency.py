"""Blocking work in threads and many small tasks at once, with cancellation that leaves nothing
running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 (an item)


class Threads:
    """A bounded set of named threads for blocking work."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="executor")

    async def __call__(self, function: Callable[..., T], /, *args: object) -> T:
        """Runs the function in a thread and answers what it answers.

        A thread cannot be stopped: when cancelled, waits for it to end before the cancellation goes
        on, so that nothing works on space that the caller then frees.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        await settle(future)
        return future.result()

    def close(self) -> None:
        """Waits for running work and ends the threads."""
        self._pool.shutdown()


async def settle(*futures: asyncio.Future[Any]) -> None:
    """Waits until all futures are done, even while being cancelled; then cancellation goes on.

    For clean-up that must be complete before anybody else is told.
    """
    cancelled = await outlast(*futures)
    if cancelled is not None:
        for future in futures:
            if not future.cancelled():
                future.exception()  # Looked at, so that asyncio does not report it as forgotten.
        raise cancelled


async def outlast(*futures: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Waits until all futures are done, however often this task is cancelled meanwhile.

    Answers the last cancellation, which the caller raises once what must be done first is done.
    """
    cancelled: asyncio.CancelledError | None = None
    while not all(future.done() for future in futures):
        try:
            await asyncio.wait(futures)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def for_each(
    limit: int, function: Callable[[I], Awaitable[None]], items: Iterable[I]
) -> None:
    """Calls the function for each item, `limit` at a time.

    The first failure cancels the rest and is raised as it is, not in a group.
    """
    remaining = iter(items)

    async def work() -> None:
        for item in remaining:
            await function(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(limit):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        error: BaseException = failures
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
