"""One piece of work for all who want it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cas.errors import StoreUnavailable

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """Work by key, of which there is never more than one piece under way.

    It runs in the group that is given, and ends early when nobody waits for it any more. Whoever
    waits gets its result or its error.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._flights: dict[K, _Flight[T]] = {}
        self.shared = 0
        """How often somebody joined what was under way already."""

    async def join(self, key: K, work: Callable[[], Awaitable[T]]) -> T:
        """Joins the work under way for that key, or starts it."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = self._group.create_task(self._fly(key, flight, work))
        else:
            self.shared += 1
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.landed)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.landed.done():
                # So that who comes now does not join what is about to end.
                if self._flights.get(key) is flight:
                    del self._flights[key]
                flight.task.cancel()

    def stop(self) -> None:
        """Ends all that is under way; whoever waits gets StoreUnavailable."""
        for flight in self._flights.values():
            flight.task.cancel()

    async def _fly(self, key: K, flight: _Flight[T], work: Callable[[], Awaitable[T]]) -> None:
        try:
            result = await work()
        except asyncio.CancelledError:
            if flight.waiting:
                flight.fail(StoreUnavailable("the store is closing"))
            raise
        except Exception as error:  # noqa: BLE001 (it is raised by whoever waits)
            flight.fail(error)
        else:
            flight.landed.set_result(result)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]


class _Flight(Generic[T]):
    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.landed: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.waiting = 0

    def fail(self, error: Exception) -> None:
        self.landed.set_exception(error)
        # Nobody may be left to hear it.
        self.landed.exception()
