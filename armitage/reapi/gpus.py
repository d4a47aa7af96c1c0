"""The Gpu service (armitage.gpu.v1): the host's GPUs and who holds them, for operators."""

from __future__ import annotations

from collections.abc import Collection

from armitage._proto.armitage.gpu.v1 import gpu_pb2 as pb
from armitage.errors import InvalidRequest, NotFound
from armitage.reapi import rpcs
from armitage.reapi.operators import LOOPBACK, Operators
from armitage.transport.port import Call, Method, Unary
from executor.isospin.device import Device, Need
from executor.isospin.leasing import GpuLeases, visible_devices
from executor.isospin.pool import Lease

_MOST_DEVICES = 1024
_MOST_CHARS = 200


class GpuService:
    """Answers for the leases that actions and operators share."""

    def __init__(self, leases: GpuLeases, operators: Collection[str] = (LOOPBACK,)) -> None:
        self._leases = leases
        self._operators = Operators(operators)

    def methods(self) -> list[Method]:
        """Answers the methods for a transport."""
        return [
            Unary(rpcs.LIST_GPUS.path, self.list_gpus),
            Unary(rpcs.LEASE_GPUS.path, self.lease_gpus),
            Unary(rpcs.RELEASE_GPUS.path, self.release_gpus),
        ]

    async def list_gpus(self, request: bytes, call: Call) -> bytes:
        """Answers devices as they are now, leases, and who waits."""
        pb.ListGpusRequest.FromString(request)
        self._operators.check(call)
        await self._leases.refresh()
        return pb.ListGpusResponse(
            devices=map(_device, self._leases.devices),
            leases=map(self._lease, self._leases.leases),
            waiting=[
                pb.Waiting(holder=ask.holder, need=str(ask.need)) for ask in self._leases.waiting
            ],
            why_none=self._leases.why_none,
        ).SerializeToString()

    async def lease_gpus(self, request: bytes, call: Call) -> bytes:
        """Leases by hand."""
        message = pb.LeaseGpusRequest.FromString(request)
        self._operators.check(call)
        need = message.need
        if not 0 < need.count <= _MOST_DEVICES or need.memory_mib < 0 or need.sm < 0:
            raise InvalidRequest("count is at least 1, memory_mib and sm are not negative")
        if not message.held_s > 0:
            raise InvalidRequest("held_s is more than 0: a lease by hand ends by itself")
        if len(message.purpose) > _MOST_CHARS or not message.purpose.isprintable():
            raise InvalidRequest(f"purpose is one line of {_MOST_CHARS} characters at most")
        who = f"operator {call.identity or call.peer}"
        await self._leases.refresh()
        lease = self._leases.lease_by_hand(
            f"{who}: {message.purpose}" if message.purpose else who,
            Need(need.count, need.memory_mib, need.sm),
            message.held_s,
        )
        answer = self._lease(lease)
        answer.environment.update(visible_devices(lease))
        return answer.SerializeToString()

    async def release_gpus(self, request: bytes, call: Call) -> bytes:
        """Ends a lease by hand."""
        message = pb.ReleaseGpusRequest.FromString(request)
        self._operators.check(call)
        if not self._leases.release_by_hand(message.id):
            raise NotFound(f"there is no lease by hand {message.id}; armitage gpu list shows all")
        return pb.ReleaseGpusResponse().SerializeToString()

    def _lease(self, lease: Lease) -> pb.Lease:
        return pb.Lease(
            id=lease.ticket,
            holder=lease.holder,
            parts=[
                pb.Part(uuid=part.device.uuid, memory_mib=part.memory_mib) for part in lease.parts
            ],
            by_hand=self._leases.is_by_hand(lease.ticket),
        )


def _device(device: Device) -> pb.Device:
    return pb.Device(
        uuid=device.uuid,
        name=device.name,
        memory_mib=device.memory_mib,
        sm=device.sm,
        driver=device.driver,
        cuda=device.cuda,
        profile=device.profile,
        fault=device.fault,
    )
