"""GPU leases in use: an Executor that holds devices while an action runs, and leases by hand."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from executor.concurrency import Threads
from executor.errors import DevicesUnavailable, WorkerFailure
from executor.evidence import Leased
from executor.isospin.device import Device, Need, need_of
from executor.isospin.passthrough import PassthroughOptions
from executor.isospin.pool import (
    Asked,
    Command,
    Event,
    Found,
    Granted,
    Lease,
    LeasePool,
    PoolStats,
    Refused,
    Released,
    Revoked,
    WhenNone,
)
from executor.ports import Executor, Progress
from executor.spec import Devices, Outcome, Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """GPUs of this host, for actions that declare `gpu`."""

    enabled: bool = True
    """Whether to look for any."""
    when_none: WhenNone = WhenNone.QUEUE
    shares_memory: bool = False
    """Whether several actions may hold one GPU, each with the memory that it declares."""
    check_s: float = 30.0
    """How often devices are looked for and their health is checked."""
    files: tuple[str, ...] = ()
    """What else of the host an action with a GPU sees read-only, as paths or patterns."""
    max_held_s: float = 86_400.0
    """For how long a lease by hand may be asked for."""
    passthrough: tuple[PassthroughOptions, ...] = ()
    """GPUs that are bound to vfio-pci, for actions in virtual machines."""

    def __post_init__(self) -> None:
        if self.check_s < 1:
            raise ValueError("check_s must be at least 1 s: the driver is asked each time")


class Discovery(Protocol):
    """Where devices are found."""

    def find(self) -> tuple[Device, ...]:
        """Answers all there are. Blocking. Raises DevicesUnavailable where none can be."""


@dataclass(slots=True)
class _Seat:
    """Whoever asked for devices: first he waits for the answer, then for the loss of the lease."""

    answer: asyncio.Future[Lease]
    loss: asyncio.Future[str]


class GpuLeases:
    """The devices of this host and who holds them. Owned by one event loop."""

    def __init__(self, discovery: Discovery, options: GpuOptions) -> None:
        self._discovery = discovery
        self._pool = LeasePool(options.when_none, shares_memory=options.shares_memory)
        self._options = options
        self._threads = Threads(1)
        self._tickets = itertools.count(1)
        self._seats: dict[int, _Seat] = {}
        self._by_hand: dict[int, asyncio.TimerHandle] = {}
        self.why_none = "not looked for yet"
        """Why there are no devices; empty when there are."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """All there are."""
        return self._pool.devices

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All that are held, the oldest first."""
        return self._pool.leases

    @property
    def waiting(self) -> tuple[Asked, ...]:
        """All that wait, the first in turn first."""
        return self._pool.waiting

    def stats(self) -> PoolStats:
        """Answers the figures of this moment."""
        return self._pool.stats()

    async def refresh(self) -> None:
        """Looks at all devices. Whoever holds one that is gone or has failed loses it."""
        try:
            found = await self._threads(self._discovery.find)
            self.why_none = "" if found else "the driver knows of none"
        except DevicesUnavailable as error:
            found, self.why_none = (), str(error)
        except Exception:  # noqa: BLE001 (a driver's surprises must not end the daemon)
            _log.exception("looking for GPUs failed, so none is given to anybody")
            found, self.why_none = (), "looking for GPUs failed; the server's log says how"
        before = {device.uuid: device.fault for device in self._pool.devices}
        for device in found:
            if device.fault and before.get(device.uuid) != device.fault:
                _log.warning("GPU %s (%s): %s", device.uuid, device.name, device.fault)
        self._handle(Found(found))

    async def close(self) -> None:
        """Ends leases by hand; no action may hold any. Call it once."""
        for ticket in list(self._by_hand):
            self.release_by_hand(ticket)
        self._threads.close()

    @asynccontextmanager
    async def hold(
        self, holder: str, need: Need
    ) -> AsyncIterator[tuple[Lease, asyncio.Future[str]]]:
        """Holds devices while the context lasts; waits for them as configured.

        Also answers a future that is done, with the reason, when the lease is lost meanwhile.
        Raises DevicesUnavailable.
        """
        ticket, seat = self._sit_down(holder, need)
        try:
            yield await seat.answer, seat.loss
        finally:
            self._leave(ticket)

    def lease_by_hand(self, holder: str, need: Need, held_s: float) -> Lease:
        """Leases at once or not at all, for so long or until release_by_hand.

        Raises DevicesUnavailable.
        """
        ticket, seat = self._sit_down(holder, need)
        if not seat.answer.done():
            self._leave(ticket)
            raise DevicesUnavailable(f"{need}: others hold what would do, or wait for it")
        try:
            lease = seat.answer.result()
        except DevicesUnavailable:
            self._leave(ticket)
            raise
        loop = asyncio.get_running_loop()
        seconds = min(held_s, self._options.max_held_s)
        self._by_hand[ticket] = loop.call_later(seconds, self.release_by_hand, ticket)
        return lease

    def release_by_hand(self, ticket: int) -> bool:
        """Ends a lease by hand; answers whether there was one."""
        if ticket not in self._by_hand:
            return False
        self._by_hand.pop(ticket).cancel()
        self._leave(ticket)
        return True

    def is_by_hand(self, ticket: int) -> bool:
        """Tells whether somebody leased by hand under the ticket."""
        return ticket in self._by_hand

    def _sit_down(self, holder: str, need: Need) -> tuple[int, _Seat]:
        loop = asyncio.get_running_loop()
        ticket, seat = next(self._tickets), _Seat(loop.create_future(), loop.create_future())
        self._seats[ticket] = seat
        self._handle(Asked(ticket, holder, need))
        return ticket, seat

    def _leave(self, ticket: int) -> None:
        seat = self._seats.pop(ticket)
        seat.answer.cancel()
        seat.loss.cancel()
        self._handle(Released(ticket))

    def _handle(self, event: Event) -> None:
        for command in self._pool.handle(event):
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case Granted(ticket, lease):
                if not self._seats[ticket].answer.done():
                    self._seats[ticket].answer.set_result(lease)
            case Refused(ticket, reason):
                if not self._seats[ticket].answer.done():
                    more = f"; {self.why_none}" if self.why_none else ""
                    self._seats[ticket].answer.set_exception(DevicesUnavailable(reason + more))
            case Revoked(ticket, reason):
                _log.warning("lease %d is lost: %s", ticket, reason)
                if not self._seats[ticket].loss.done():
                    self._seats[ticket].loss.set_result(reason)


class LeasingExecutor:
    """Holds what an action declares of GPUs while the inner executor runs it.

    Why a wrapper: whatever the sandbox, devices are granted, freed and told of alike.
    """

    def __init__(
        self,
        inner: Executor,
        leases: GpuLeases,
        in_guest: Callable[[Work], bool] = lambda _: False,
    ) -> None:
        """`in_guest` tells whether the inner executor runs an action in a virtual machine."""
        self._inner = inner
        self._leases = leases
        self._in_guest = in_guest

    async def execute(self, work: Work, progress: Progress) -> Outcome:
        """Runs one action; see executor.ports.Executor.

        Raises DevicesUnavailable too, and WorkerFailure when a device fails meanwhile.
        """
        if work.coeffects.gpu is None:
            return await self._inner.execute(work, progress)
        in_guest = self._in_guest(work)
        need = need_of(work.coeffects.gpu, dict(work.platform), in_guest=in_guest)
        async with self._leases.hold(f"action {work.action or work.name}", need) as (lease, loss):
            work = replace(work, devices=_devices(lease))
            return _with_devices(await self._run(work, progress, loss), lease)

    async def _run(self, work: Work, progress: Progress, loss: asyncio.Future[str]) -> Outcome:
        """Runs the action until it ends or its devices are lost."""
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(self._inner.execute(work, progress))
                ends: list[asyncio.Future[Any]] = [running, loss]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if not running.done():
                    # Leaving the group cancels the action, and waits until nothing of it is left.
                    raise WorkerFailure(f"the lease of {work.name} is lost: {loss.result()}")
        except BaseExceptionGroup as failures:
            # The loss comes last, after what the action may have said while it was being killed.
            raise failures.exceptions[-1] from None
        return running.result()


def _devices(lease: Lease) -> Devices:
    passed = tuple(part.device.passed for part in lease.parts if part.device.passed is not None)
    if passed:
        # In its machine an action sees these alone, under names that only the guest's driver knows.
        return Devices(leased=_leased(lease), passed=passed)
    names = ",".join(part.device.uuid for part in lease.parts)
    return Devices(
        leased=_leased(lease),
        nodes=_each(node for part in lease.parts for node in part.device.nodes),
        files=_each(file for part in lease.parts for file in part.device.files),
        environment=(("CUDA_VISIBLE_DEVICES", names), ("NVIDIA_VISIBLE_DEVICES", names)),
    )


def _leased(lease: Lease) -> tuple[Leased, ...]:
    return tuple(
        Leased(
            uuid=part.device.uuid,
            name=part.device.name,
            memory_mib=part.memory_mib,
            sm=part.device.sm,
            driver=part.device.driver,
        )
        for part in lease.parts
    )


def _each(items: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _with_devices(outcome: Outcome, lease: Lease) -> Outcome:
    """Puts the lease into the evidence. Without evidence there is none to complete."""
    if outcome.evidence is None:
        return outcome
    return replace(outcome, evidence=replace(outcome.evidence, gpus=_leased(lease)))


def visible_devices(lease: Lease) -> Mapping[str, str]:
    """Answers the variables that make a program use the leased devices and no others."""
    return dict(_devices(lease).environment)
