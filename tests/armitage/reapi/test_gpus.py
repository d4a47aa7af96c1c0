"""The Gpu service: operators see and lease the host's GPUs, others do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.gpus import Shelf, gpu

from armitage._proto.armitage.gpu.v1 import gpu_pb2 as pb
from armitage.errors import InvalidRequest, NotFound, PermissionDenied
from armitage.reapi.gpus import GpuService
from armitage.transport.port import Call
from executor.errors import DevicesUnavailable
from executor.isospin.leasing import GpuLeases, GpuOptions

HERE = Call("", peer="ipv4:127.0.0.1:1234")
THERE = Call("", peer="ipv4:192.0.2.1:1234")


@pytest.fixture
async def leases() -> AsyncIterator[GpuLeases]:
    leases = GpuLeases(Shelf(gpu("a"), gpu("b", 40_000, sm=75, fault="broken")), GpuOptions())
    yield leases
    await leases.close()


@pytest.fixture
def service(leases: GpuLeases) -> GpuService:
    return GpuService(leases)


async def listed(service: GpuService) -> pb.ListGpusResponse:
    return pb.ListGpusResponse.FromString(await service.list_gpus(b"", HERE))


async def lease(service: GpuService, call: Call = HERE, **fields: Any) -> pb.Lease:
    need = pb.Need(**{"count": 1, **fields.pop("need", {})})
    request = pb.LeaseGpusRequest(need=need, **{"held_s": 60, **fields})
    return pb.Lease.FromString(await service.lease_gpus(request.SerializeToString(), call))


async def test_lease_is_listed_with_its_holder_until_it_is_released(service: GpuService) -> None:
    held = await lease(service, purpose="a look by hand")

    assert dict(held.environment)["CUDA_VISIBLE_DEVICES"] == "a"
    answer = await listed(service)
    assert [(one.uuid, one.fault) for one in answer.devices] == [("a", ""), ("b", "broken")]
    (shown,) = answer.leases
    assert (shown.id, shown.by_hand) == (held.id, True)
    assert shown.holder == "operator ipv4:127.0.0.1:1234: a look by hand"

    await service.release_gpus(pb.ReleaseGpusRequest(id=held.id).SerializeToString(), HERE)
    assert not (await listed(service)).leases


async def test_what_is_held_cannot_be_leased(service: GpuService) -> None:
    await lease(service)

    with pytest.raises(DevicesUnavailable, match="others hold"):
        await lease(service)


async def test_only_operators_are_served(service: GpuService) -> None:
    with pytest.raises(PermissionDenied):
        await service.list_gpus(b"", THERE)
    with pytest.raises(PermissionDenied):
        await lease(service, THERE)
    with pytest.raises(PermissionDenied):
        await service.release_gpus(pb.ReleaseGpusRequest(id=1).SerializeToString(), THERE)


async def test_release_of_what_is_not_leased_by_hand_is_not_found(service: GpuService) -> None:
    with pytest.raises(NotFound, match="armitage gpu list"):
        await service.release_gpus(pb.ReleaseGpusRequest(id=9).SerializeToString(), HERE)


@pytest.mark.parametrize(
    "fields",
    [
        {"need": {"count": 0}},
        {"need": {"memory_mib": -1}},
        {"need": {"sm": -1}},
        {"held_s": 0},
        {"held_s": float("nan")},
        {"purpose": "two\nlines"},
        {"purpose": "x" * 201},
    ],
)
async def test_bad_requests_are_refused(service: GpuService, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await lease(service, **fields)
