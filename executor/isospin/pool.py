"""Who holds which GPU: a state machine without I/O, clock or tasks.

The rules:

- A device is held by one lease as a whole, or, where sharing by memory is on, by several whose
  shares fit into its memory together. Who does not say how much memory he needs gets it whole, and
  so does a virtual machine.
- All devices of a lease are got at once, so that nobody holds one while waiting for another.
- First come, first served: whatever an earlier ask that waits could use is kept for it, so that no
  later ask delays an earlier one; a later ask gets only what the earlier ones cannot use.
- Among the devices that suit, those with the least memory to spare go first: large ones stay free
  for those who need them.
- A device with a fault is given to nobody, and who holds it loses the lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from executor.isospin.device import Device, Need


class WhenNone(StrEnum):
    """What becomes of an ask that cannot be granted at once."""

    QUEUE = "queue"
    """It waits for devices that others hold; refused where no device here could ever do."""
    WAIT = "wait"
    """It waits in any case, also for devices that are not here yet."""
    FAIL = "fail"
    """It is refused."""


@dataclass(frozen=True, slots=True)
class Found:
    """Event: these are all the devices there are now, the faulty ones among them."""

    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """Event: somebody wants devices. Answered by Granted or Refused, now or later."""

    ticket: int
    holder: str
    """Who, for people to read."""
    need: Need


@dataclass(frozen=True, slots=True)
class Released:
    """Event: whoever held the ticket, or waited with it, is done or dead. Others are ignored."""

    ticket: int


Event = Found | Asked | Released


@dataclass(frozen=True, slots=True)
class Part:
    """What a lease has of one device."""

    device: Device
    memory_mib: int
    """All of the device's, or the share."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Devices that are held together."""

    ticket: int
    holder: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """Command: tell who asked that he holds these."""

    ticket: int
    lease: Lease


@dataclass(frozen=True, slots=True)
class Refused:
    """Command: tell who asked why he will not get any."""

    ticket: int
    reason: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """Command: end what runs under the lease; it is over already."""

    ticket: int
    reason: str


Command = Granted | Refused | Revoked


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Figures of this moment; the last four count since the start."""

    devices: int
    faulty: int
    held: int
    """Devices of which somebody holds at least a share."""
    leases: int
    waiting: int
    granted: int
    refused: int
    revoked: int


class LeasePool:
    """Holds the books; see the rules above. Owned by whoever calls it."""

    def __init__(
        self, when_none: WhenNone = WhenNone.QUEUE, *, shares_memory: bool = False
    ) -> None:
        self._when_none = when_none
        self._shares_memory = shares_memory
        self._devices: dict[str, Device] = {}
        self._leases: dict[int, Lease] = {}
        self._waiting: dict[int, Asked] = {}
        self._granted = self._refused = self._revoked = 0

    @property
    def devices(self) -> tuple[Device, ...]:
        """All there are, the faulty ones among them."""
        return tuple(self._devices.values())

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All that are held, the oldest first."""
        return tuple(self._leases.values())

    @property
    def waiting(self) -> tuple[Asked, ...]:
        """All that wait, the first in turn first."""
        return tuple(self._waiting.values())

    def stats(self) -> PoolStats:
        """Answers the figures of this moment."""
        return PoolStats(
            devices=len(self._devices),
            faulty=sum(bool(device.fault) for device in self._devices.values()),
            held=len({part.device.uuid for one in self._leases.values() for part in one.parts}),
            leases=len(self._leases),
            waiting=len(self._waiting),
            granted=self._granted,
            refused=self._refused,
            revoked=self._revoked,
        )

    def handle(self, event: Event) -> list[Command]:
        """Takes one event and answers what is to be done, in order."""
        match event:
            case Found(devices):
                return [*self._replace(devices), *self._refuse_hopeless(), *self._serve()]
            case Asked():
                return self._ask(event)
            case Released(ticket):
                self._waiting.pop(ticket, None)
                self._leases.pop(ticket, None)
                return self._serve()

    def _replace(self, devices: Iterable[Device]) -> list[Command]:
        self._devices = {device.uuid: device for device in devices}
        commands: list[Command] = []
        for ticket, lease in list(self._leases.items()):
            lost = [self._fault_of(part.device) for part in lease.parts]
            reasons = [reason for reason in lost if reason]
            if reasons:
                del self._leases[ticket]
                self._revoked += 1
                commands.append(Revoked(ticket, "; ".join(reasons)))
        return commands

    def _fault_of(self, held: Device) -> str:
        """Answers why a device can be held no longer; empty when it can."""
        now = self._devices.get(held.uuid)
        if now is None:
            return f"GPU {held.uuid} ({held.name}) is gone"
        if now.fault:
            return f"GPU {held.uuid} ({held.name}): {now.fault}"
        if _kind(now) != _kind(held):
            return f"GPU {held.uuid} ({held.name}) is not what it was: driver, or size, changed"
        return ""

    def _refuse_hopeless(self) -> list[Command]:
        if self._when_none is WhenNone.WAIT:
            return []
        hopeless = [ask for ask in self._waiting.values() if not self._could_ever(ask.need)]
        for ask in hopeless:
            del self._waiting[ask.ticket]
        return [self._refuse(ask.ticket, self._never(ask.need)) for ask in hopeless]

    def _ask(self, ask: Asked) -> list[Command]:
        known = self._leases.keys() | self._waiting.keys()
        assert ask.ticket not in known, "a ticket is for one ask"
        if self._when_none is not WhenNone.WAIT and not self._could_ever(ask.need):
            return [self._refuse(ask.ticket, self._never(ask.need))]
        self._waiting[ask.ticket] = ask
        commands = self._serve()
        if self._when_none is WhenNone.FAIL and ask.ticket in self._waiting:
            del self._waiting[ask.ticket]
            reason = f"{ask.need}: all that would do are held or faulty ({self._describe()})"
            commands.append(self._refuse(ask.ticket, reason))
        return commands

    def _could_ever(self, need: Need) -> bool:
        return sum(need.suits(device) for device in self._devices.values()) >= need.count

    def _refuse(self, ticket: int, reason: str) -> Refused:
        self._refused += 1
        return Refused(ticket, reason)

    def _never(self, need: Need) -> str:
        return f"{need}: no GPU of this host can ever do ({self._describe()})"

    def _describe(self) -> str:
        kinds = [
            f"{device.name} {device.profile}".rstrip()
            + f", {device.memory_mib} MiB, sm_{device.sm}, driver {device.driver or 'unknown'}"
            + (", for virtual machines" if device.passed else "")
            + (f", faulty: {device.fault}" if device.fault else "")
            for device in self._devices.values()
        ]
        return f"it has: {'; '.join(kinds)}" if kinds else "it has none"

    def _serve(self) -> list[Command]:
        """Grants what can be granted, in turn."""
        commands: list[Command] = []
        kept: set[str] = set()
        for ticket, ask in list(self._waiting.items()):
            parts = self._choose(ask.need, kept)
            if parts is None:
                kept |= {uuid for uuid, one in self._devices.items() if ask.need.suits(one)}
                continue
            del self._waiting[ticket]
            lease = Lease(ticket, ask.holder, parts)
            self._leases[ticket] = lease
            self._granted += 1
            commands.append(Granted(ticket, lease))
        return commands

    def _choose(self, need: Need, kept: set[str]) -> tuple[Part, ...] | None:
        """Answers the parts of a lease, None when there are not enough that are free."""
        used = self._used()
        parts = []
        for device in self._devices.values():
            wanted = self._share(need, device)
            is_free = used.get(device.uuid, 0) + wanted <= device.memory_mib
            is_whole = wanted < device.memory_mib or device.uuid not in used
            usable = not device.fault and device.uuid not in kept and need.suits(device)
            if usable and is_free and is_whole:
                parts.append(Part(device, wanted))
        if len(parts) < need.count:
            return None
        parts.sort(key=lambda part: part.device.memory_mib - used.get(part.device.uuid, 0))
        return tuple(parts[: need.count])

    def _share(self, need: Need, device: Device) -> int:
        if self._shares_memory and need.memory_mib and device.passed is None:
            return need.memory_mib
        return device.memory_mib

    def _used(self) -> Mapping[str, int]:
        used: dict[str, int] = {}
        for lease in self._leases.values():
            for part in lease.parts:
                uuid = part.device.uuid
                used[uuid] = used.get(uuid, 0) + part.memory_mib
        return used


def _kind(device: Device) -> tuple[object, ...]:
    return device.driver, device.sm, device.memory_mib, device.passed
