"""Small work in a thread, for many callers at once: whoever asks while a thread is at it is served
by its next turn, so that waking a thread, which costs as much as the work, is shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MOST_AT_ONCE: Final = 64


Work = Callable[[Sequence[Item]], Sequence[Answer | Exception]]
"""Answers for each item; an exception is raised where that item was asked for."""


class Together(Generic[Item, Answer]):
    """One function, called in `threads`, never twice at the same time. For one event loop."""

    def __init__(self, work: Work[Item, Answer], threads: Executor) -> None:
        self._work = work
        self._threads = threads
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._turn = asyncio.Lock()

    async def __call__(self, item: Item) -> Answer:
        """Answers, or raises, what the function does for the item. Cancelled, the function may be
        called all the same.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        try:
            async with self._turn:
                while not answer.done():
                    await self._take_turn()
        finally:
            answer.cancel()  # Does nothing to one that is settled.
        return answer.result()

    async def _take_turn(self) -> None:
        taken, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
        wanted = [each for each in taken if not each[1].cancelled()]
        loop = asyncio.get_running_loop()
        working = loop.run_in_executor(self._threads, self._work_off, [item for item, _ in wanted])
        try:
            results = await asyncio.shield(working)
        except asyncio.CancelledError:
            # The thread goes on: whoever else waits gets what it comes to.
            working.add_done_callback(lambda done: _settle(wanted, done.result()))
            raise
        _settle(wanted, results)

    def _work_off(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        try:
            return self._work(items)
        except Exception as error:  # noqa: BLE001 (it is raised where it was asked for)
            return [error] * len(items)


def one_by_one(work: Callable[[Item], Answer]) -> Work[Item, Answer]:
    """A function of one item, called for each."""

    def all_of(items: Sequence[Item]) -> Sequence[Answer | Exception]:
        return [_attempt(work, item) for item in items]

    return all_of


def _attempt(work: Callable[[Item], Answer], item: Item) -> Answer | Exception:
    try:
        return work(item)
    except Exception as error:  # noqa: BLE001 (see above)
        return error


def _settle(
    wanted: Sequence[tuple[Item, asyncio.Future[Answer]]], results: Sequence[Answer | Exception]
) -> None:
    for (_, answer), result in zip(wanted, results, strict=True):
        if answer.done():
            continue
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)
