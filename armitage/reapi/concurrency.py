"""Many small awaits at once, under structured concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def map_concurrently(
    function: Callable[[Item], Awaitable[Result]], items: Sequence[Item], width: int
) -> list[Result]:
    """Answers the results in the order of the items, with at most `width` calls under way.

    The first error ends the others and is raised as it is, not in a group.
    """
    if len(items) == 1:
        return [await function(items[0])]
    results: dict[int, Result] = {}
    work = iter(enumerate(items))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(width, len(items))):
                group.create_task(_worker(function, work, results))
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [results[index] for index in range(len(items))]


async def _worker(
    function: Callable[[Item], Awaitable[Result]],
    work: Iterator[tuple[int, Item]],
    results: dict[int, Result],
) -> None:
    for index, item in work:
        results[index] = await function(item)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
