"""Small things that are done every so often while the daemon runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self


class Chores:
    """Calls functions, then coroutines, once each period, in a task that ends with the context.

    An async context manager. What a chore raises ends whoever holds the context: a chore that may
    fail says so by logging, not by raising.
    """

    def __init__(
        self,
        period_s: float,
        functions: Sequence[Callable[[], None]],
        coroutines: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self._period_s = period_s
        self._functions = functions
        self._coroutines = coroutines
        self._group = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._task = self._group.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await self._group.__aexit__(None, None, None)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            for function in self._functions:
                function()
            for coroutine in self._coroutines:
                await coroutine()
