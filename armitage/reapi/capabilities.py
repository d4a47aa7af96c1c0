"""What this server offers, said truthfully (REAPI `Capabilities`)."""

from __future__ import annotations

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.build.bazel.semver import semver_pb2 as semver
from armitage.reapi import rpcs
from armitage.reapi.chunking import ChunkingOptions
from armitage.reapi.compressors import CODECS
from armitage.reapi.digests import WIRE_FUNCTIONS
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.limits import Limits
from armitage.transport.port import Call, Method, Unary

LOWEST_VERSION = semver.SemVer(major=2, minor=0)
HIGHEST_VERSION = semver.SemVer(major=2, minor=13)


class CapabilitiesService:
    """Answers for each instance. `priorities` are the lowest and highest that execution honours."""

    def __init__(
        self,
        instances: Instances,
        *,
        limits: Limits | None = None,
        chunking: ChunkingOptions | None = None,
        priorities: tuple[int, int] = (-(1 << 31), (1 << 31) - 1),
        allow_absolute_symlinks: bool = True,
    ) -> None:
        self._instances = instances
        self._limits = limits or Limits()
        self._chunking = chunking or ChunkingOptions()
        self._priorities = priorities
        self._allow_absolute_symlinks = allow_absolute_symlinks

    def methods(self) -> list[Method]:
        """Answers the methods for a transport."""
        return [Unary(rpcs.GET_CAPABILITIES.path, self.get_capabilities)]

    async def get_capabilities(self, request: bytes, _call: Call) -> bytes:
        """Answers both the cache part and the execution part: clients ask just one address."""
        message = reapi.GetCapabilitiesRequest.FromString(request)
        instance = self._instances.get(message.instance_name)
        return reapi.ServerCapabilities(
            cache_capabilities=self._cache(instance),
            execution_capabilities=self._execution(instance),
            low_api_version=LOWEST_VERSION,
            high_api_version=HIGHEST_VERSION,
        ).SerializeToString()

    def _cache(self, instance: Instance) -> reapi.CacheCapabilities:
        strategy = reapi.SymlinkAbsolutePathStrategy
        return reapi.CacheCapabilities(
            digest_functions=[WIRE_FUNCTIONS[function] for function in instance.digests.functions],
            action_cache_update_capabilities=reapi.ActionCacheUpdateCapabilities(
                update_enabled=instance.action_cache_update_enabled
            ),
            # Every client-chosen cache priority is taken and none makes a difference.
            cache_priority_capabilities=_range(*self._priorities),
            max_batch_total_size_bytes=self._limits.max_batch_total_size_bytes,
            symlink_absolute_path_strategy=(
                strategy.ALLOWED if self._allow_absolute_symlinks else strategy.DISALLOWED
            ),
            supported_compressors=[*CODECS],
            supported_batch_update_compressors=[*CODECS],
            max_cas_blob_size_bytes=instance.max_blob_size_bytes,
            split_blob_support=True,
            splice_blob_support=True,
            fast_cdc_2020_params=reapi.FastCdc2020Params(
                avg_chunk_size_bytes=self._chunking.average_bytes
            ),
        )

    def _execution(self, instance: Instance) -> reapi.ExecutionCapabilities:
        functions = [WIRE_FUNCTIONS[function] for function in instance.digests.functions]
        return reapi.ExecutionCapabilities(
            digest_function=functions[0],
            digest_functions=functions,
            exec_enabled=instance.exec_enabled,
            execution_priority_capabilities=_range(*self._priorities),
        )


def _range(lowest: int, highest: int) -> reapi.PriorityCapabilities:
    return reapi.PriorityCapabilities(
        priorities=[
            reapi.PriorityCapabilities.PriorityRange(min_priority=lowest, max_priority=highest)
        ]
    )
