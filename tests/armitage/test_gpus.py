"""The daemon finds GPUs, serves their leases and tells their figures."""

from __future__ import annotations

from support.daemon import memory_config
from support.gpus import Shelf, gpu

from armitage._proto.armitage.gpu.v1 import gpu_pb2 as pb
from armitage.client.channel import Channel
from armitage.daemon import Daemon
from armitage.reapi import rpcs


async def test_daemon_leases_what_it_has_found() -> None:
    async with Daemon(memory_config(), gpus=Shelf(gpu("a"))) as daemon:
        async with Channel(daemon.addresses.grpc[0]) as channel:
            request = pb.LeaseGpusRequest(need=pb.Need(count=1), held_s=60)
            lease = await channel.call(rpcs.LEASE_GPUS, request)
            answer = await channel.call(rpcs.LIST_GPUS, pb.ListGpusRequest())

        assert [part.uuid for part in lease.parts] == ["a"]
        assert [one.id for one in answer.leases] == [lease.id]
        assert answer.devices[0].driver == "580.159.04"
