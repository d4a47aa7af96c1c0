"""Small work in a thread, for many callers at once: whoever asks while a thread is at it is served
by its next turn, so that waking a thread, which costs as much as the work, is shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MOST_AT_ONCE: Final = 64


Work = Callable[[Sequence[Item]], Sequence[Answer | Exception]]
"""Answers for each item; an exception is raised where that item was asked for."""
_Asked: TypeAlias = tuple[Item, asyncio.Future[Answer]]


class Together(Generic[Item, Answer]):
    """One function, called in `threads`, never twice at the same time. For one event loop."""

    def __init__(self, work: Work[Item, Answer], threads: Executor) -> None:
        self._work = work
        self._threads = threads
        self._waiting: list[_Asked[Item, Answer]] = []
        self._turn: asyncio.Future[Sequence[Answer | Exception]] | None = None

    async def __call__(self, item: Item) -> Answer:
        """Answers, or raises, what the function does for the item. Cancelled, the function may be
        called all the same.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._turn is None:
            self._take_turn()
        return await answer

    async def turn(self) -> None:
        """Waits until whoever is being served now, if anybody is, has the answer."""
        if self._turn is not None:
            await asyncio.wait([self._turn])

    def _take_turn(self) -> None:
        """Begins a turn. No task waits for it to end: each caller waits for its own answer, and
        none that leaves can take the others along.
        """
        taken, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
        wanted = [each for each in taken if not each[1].done()]
        items = [item for item, _ in wanted]
        loop = asyncio.get_running_loop()
        self._turn = loop.run_in_executor(self._threads, self._work_off, items)
        self._turn.add_done_callback(partial(self._end_turn, wanted))

    def _end_turn(
        self,
        wanted: Sequence[_Asked[Item, Answer]],
        done: asyncio.Future[Sequence[Answer | Exception]],
    ) -> None:
        self._turn = None
        _settle(wanted, done.result())
        if self._waiting:
            self._take_turn()

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


def _settle(wanted: Sequence[_Asked[Item, Answer]], results: Sequence[Answer | Exception]) -> None:
    for (_, answer), result in zip(wanted, results, strict=True):
        if answer.done():
            continue
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)
