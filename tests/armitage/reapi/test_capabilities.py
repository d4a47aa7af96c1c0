"""Capabilities, and instances as every service sees them."""

from __future__ import annotations

import pytest
from support.wire import BLAKE3, SHA256, Services, code_of

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest
from armitage.reapi import rpcs
from armitage.reapi.chunking import ChunkingOptions
from armitage.reapi.digests import DigestPolicy
from armitage.reapi.instances import Instance
from armitage.reapi.limits import Limits
from armitage.transport.port import Code


async def capabilities(services: Services, instance: str = "") -> reapi.ServerCapabilities:
    request = reapi.GetCapabilitiesRequest(instance_name=instance)
    return await services.call(rpcs.GET_CAPABILITIES, request)


async def test_both_parts_are_answered_without_an_unknown() -> None:
    answer = await capabilities(Services())

    cache, execution = answer.cache_capabilities, answer.execution_capabilities
    assert reapi.DigestFunction.UNKNOWN not in cache.digest_functions
    assert execution.digest_function in cache.digest_functions
    assert list(execution.digest_functions) == list(cache.digest_functions)
    assert cache.symlink_absolute_path_strategy == reapi.SymlinkAbsolutePathStrategy.ALLOWED
    assert execution.exec_enabled
    assert (answer.low_api_version.major, answer.low_api_version.minor) == (2, 0)
    assert (answer.high_api_version.major, answer.high_api_version.minor) >= (2, 3)


async def test_chunking_is_advertised_with_the_sizes_in_use() -> None:
    services = Services(chunking=ChunkingOptions(average_bytes=64 << 10))

    answer = await capabilities(services)

    cache = answer.cache_capabilities
    assert cache.split_blob_support
    assert cache.splice_blob_support
    assert cache.fast_cdc_2020_params.avg_chunk_size_bytes == 64 << 10
    assert cache.fast_cdc_2020_params.seed == 0
    assert (answer.high_api_version.major, answer.high_api_version.minor) == (2, 13)


async def test_what_is_advertised_is_the_instances() -> None:
    services = Services(
        [
            Instance(
                "a/b",
                DigestPolicy((BLAKE3, SHA256)),
                action_cache_update_enabled=False,
                exec_enabled=False,
                max_blob_size_bytes=77,
            )
        ],
        limits=Limits(max_batch_total_size_bytes=1234),
    )

    answer = await capabilities(services, "a/b")

    cache = answer.cache_capabilities
    assert list(cache.digest_functions) == [
        reapi.DigestFunction.BLAKE3,
        reapi.DigestFunction.SHA256,
    ]
    assert answer.execution_capabilities.digest_function == reapi.DigestFunction.BLAKE3
    assert not cache.action_cache_update_capabilities.update_enabled
    assert not answer.execution_capabilities.exec_enabled
    assert cache.max_cas_blob_size_bytes == 77
    assert cache.max_batch_total_size_bytes == 1234


async def test_an_unknown_instance_is_not_found() -> None:
    assert await code_of(capabilities(Services(), "who")) == Code.NOT_FOUND


@pytest.mark.parametrize("name", ["a//b", "/a", "a/", "blobs", "a/uploads/b", "x/logstreams"])
def test_an_instance_name_that_resource_names_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        Instance(name)
