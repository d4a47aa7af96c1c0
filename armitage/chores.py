"""What runs beside other things while a context is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self


class Meanwhile:
    """Runs a coroutine in a task that ends with the context. An async context manager.

    What it raises ends whoever holds the context.
    """

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._begin = run
        self._group = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._task = self._group.create_task(self._begin())
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


class Chores(Meanwhile):
    """Calls functions, then coroutines, once each period.

    A chore that may fail says so by logging, not by raising.
    """

    def __init__(
        self,
        period_s: float,
        functions: Sequence[Callable[[], None]],
        coroutines: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        super().__init__(self._run)
        self._period_s = period_s
        self._functions = functions
        self._coroutines = coroutines

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            for function in self._functions:
                function()
            for coroutine in self._coroutines:
                await coroutine()
