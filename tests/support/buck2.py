"""Makes the calls that Buck2's open-source remote execution client makes, in its order and shape.

Written from the behaviour of facebook/buck2's `remote_execution/oss/re_grpc` and its callers
(August 2026). What that client treats as a hard error is an error here too (`Buck2Fails`); what it
never sends is never sent: no digest function, no `blake3/` in a resource name, no
`Action.platform`, no PATH, no WaitExecution.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Self, TypeVar

import zstandard

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.channel import CallFailed, Channel
from armitage.reapi import rpcs
from armitage.transport.port import Code
from cas.digest import DigestFunction

T = TypeVar("T")

KEEPALIVE_S = 30
"""`grpc_keepalive_time_secs`: an HTTP/2 ping that often, while idle too."""
FIND_MISSING_BATCH = 100
DEFAULT_BATCH_BYTES = 4_000_000
ATTEMPTS = 5
_RETRIED = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED})
REMOTE_DEP_FILE = "remote_dep_file"


class Buck2Fails(Exception):
    """Buck2 would end the action with an infrastructure error here."""


@dataclass(frozen=True)
class Blob:
    """Bytes and the digest Buck2 gives them."""

    data: bytes
    digest: reapi.Digest


@dataclass
class PreparedAction:
    """What Buck2 uploads for an action, and the digest it executes by."""

    digest: reapi.Digest
    blobs: list[Blob]


@dataclass
class Response:
    """What Buck2 reads out of the Execute stream."""

    result: reapi.ActionResult
    cached: bool
    stages: list[int] = field(default_factory=list)


class Buck2Client:
    """One Buck2 daemon's remote execution client. An async context manager."""

    def __init__(
        self,
        address: str,
        *,
        instance: str = "",
        function: DigestFunction = DigestFunction.SHA256,
        keepalive_s: float = KEEPALIVE_S,
        find_missing_batch: int = FIND_MISSING_BATCH,
    ) -> None:
        self.instance = instance
        self.function = function
        self.batch_bytes = DEFAULT_BATCH_BYTES
        self.compressor: str | None = None
        self.find_missing_calls: list[int] = []
        self._channel = Channel(address, ping_s=keepalive_s)
        self._find_missing_batch = find_missing_batch
        self._known: dict[str, bool] = {}
        metadata = reapi.RequestMetadata(
            tool_details=reapi.ToolDetails(tool_name="buck2", tool_version="0.1.0"),
            tool_invocation_id=str(uuid.uuid4()),
        )
        key = "build.bazel.remote.execution.v2.requestmetadata-bin"
        self._metadata = ((key, metadata.SerializeToString()),)

    async def __aenter__(self) -> Self:
        """Connects as `build_and_connect` does: asks for capabilities, without metadata."""
        answer = await self._channel.call(
            rpcs.GET_CAPABILITIES, reapi.GetCapabilitiesRequest(instance_name=self.instance)
        )
        cache = answer.cache_capabilities
        self.batch_bytes = cache.max_batch_total_size_bytes or DEFAULT_BATCH_BYTES
        offered = set(cache.supported_compressors)
        for value, name in (
            (reapi.Compressor.ZSTD, "zstd"),
            (reapi.Compressor.BROTLI, "brotli"),
            (reapi.Compressor.DEFLATE, "deflate"),
        ):
            if value in offered:
                self.compressor = name
                break
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.__aexit__(None, None, None)

    def blob(self, data: bytes) -> Blob:
        """Names bytes with the hash that `digest_algorithms` chose."""
        digest = self.function.digest(data)
        return Blob(data, reapi.Digest(hash=digest.hash, size_bytes=digest.size_bytes))

    def prepare(
        self,
        arguments: Iterable[str],
        *,
        input_root: reapi.Digest | None,
        outputs: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        platform: Mapping[str, str] | None = None,
        timeout_s: int | None = None,
        output_paths: str = "output_paths",
    ) -> PreparedAction:
        """Makes Action and Command as `re_create_action` does."""
        command = reapi.Command(arguments=arguments)
        for name, value in sorted((environment or {}).items()):
            command.environment_variables.add(name=name, value=value)
        command.platform.SetInParent()
        for name, value in sorted((platform or {}).items()):
            command.platform.properties.add(name=name, value=value)
        for path in outputs:
            if output_paths == "output_paths":
                command.output_paths.append(path)
            else:  # "compatibility": Buck2 cannot tell what the path will be.
                command.output_files.append(path)
                command.output_directories.append(path)
        command_blob = self.blob(command.SerializeToString())
        action = reapi.Action(command_digest=command_blob.digest)
        if input_root is not None:
            action.input_root_digest.CopyFrom(input_root)
        if timeout_s is not None:
            action.timeout.FromSeconds(timeout_s)
        action_blob = self.blob(action.SerializeToString())
        return PreparedAction(action_blob.digest, [command_blob, action_blob])

    async def find_missing(self, digests: Iterable[reapi.Digest]) -> set[str]:
        """`get_digests_ttl`: batches of 100, one after the other, both answers remembered."""
        wanted = {digest.hash: digest for digest in digests}
        unknown = [digest for name, digest in wanted.items() if name not in self._known]
        for start in range(0, len(unknown), self._find_missing_batch):
            batch = unknown[start : start + self._find_missing_batch]
            request = reapi.FindMissingBlobsRequest(instance_name=self.instance, blob_digests=batch)
            answer = await self._retry(partial(self._call, rpcs.FIND_MISSING_BLOBS, request))
            self.find_missing_calls.append(len(batch))
            self._known.update({digest.hash: True for digest in batch})
            for digest in answer.missing_blob_digests:
                if digest.hash not in wanted:
                    raise Buck2Fails(
                        f"FindMissingBlobs names {digest.hash}, which nobody asked for"
                    )
                self._known[digest.hash] = False
        return {name for name in wanted if not self._known[name]}

    async def upload(self, blobs: Iterable[Blob]) -> None:
        """`upload_impl`: big blobs by ByteStream, the rest in batches, all at once."""
        batches: list[list[Blob]] = []
        streamed: list[Blob] = []
        current: list[Blob] = []
        current_bytes = 0
        for blob in blobs:
            size = blob.digest.size_bytes
            if size >= self.batch_bytes:
                streamed.append(blob)
                continue
            if size == 0:
                continue
            current_bytes += size
            if current_bytes >= self.batch_bytes:
                batches.append(current)
                current, current_bytes = [], size
            current.append(blob)
        if current:
            batches.append(current)
        async with asyncio.TaskGroup() as group:
            for batch in batches:
                group.create_task(self._upload_batch(batch))
            for blob in streamed:
                group.create_task(self._upload_stream(blob))

    async def upload_missing(self, blobs: Iterable[Blob]) -> None:
        """`Uploader::upload`: asks what is missing and uploads that."""
        by_hash = {blob.digest.hash: blob for blob in blobs}
        missing = await self.find_missing([blob.digest for blob in by_hash.values()])
        await self.upload([by_hash[name] for name in by_hash if name in missing])

    async def get_action_result(self, digest: reapi.Digest) -> reapi.ActionResult | None:
        """Asks the action cache; whatever goes wrong is a miss, silently."""
        request = reapi.GetActionResultRequest(instance_name=self.instance, action_digest=digest)
        try:
            result = await self._retry(lambda: self._call(rpcs.GET_ACTION_RESULT, request))
        except CallFailed:
            return None
        return _checked(result)

    async def write_action_result(
        self, digest: reapi.Digest, result: reapi.ActionResult
    ) -> reapi.ActionResult:
        """Stores a result, which goes without `results_cache_policy`."""
        request = reapi.UpdateActionResultRequest(
            instance_name=self.instance, action_digest=digest, action_result=result
        )
        return _checked(await self._retry(lambda: self._call(rpcs.UPDATE_ACTION_RESULT, request)))

    async def execute(self, digest: reapi.Digest, *, skip_cache_lookup: bool = False) -> Response:
        """Executes and reads the stream to the end; there is no second try once it is open."""
        request = reapi.ExecuteRequest(
            instance_name=self.instance,
            skip_cache_lookup=skip_cache_lookup,
            action_digest=digest,
            execution_policy=reapi.ExecutionPolicy(priority=0),
            results_cache_policy=reapi.ResultsCachePolicy(priority=0),
        )
        stages: list[int] = []
        async for operation in self._channel.stream(rpcs.EXECUTE, request, metadata=self._metadata):
            if not operation.done:
                metadata = reapi.ExecuteOperationMetadata.FromString(operation.metadata.value)
                stages.append(metadata.stage)
                continue
            if not operation.HasField("response"):
                raise Buck2Fails(f"the operation is done without a response: {operation}")
            response = reapi.ExecuteResponse.FromString(operation.response.value)
            if response.status.code != Code.OK:
                raise Buck2Fails(f"{Code(response.status.code).name}: {response.status.message}")
            if not response.HasField("result"):
                raise Buck2Fails("The action result is not defined.")
            return Response(_checked(response.result), response.cached_result, stages)
        raise Buck2Fails("the Execute stream ended before the operation was done")

    async def download(self, digests: Iterable[reapi.Digest]) -> dict[str, bytes]:
        """`download_impl`: batches for small blobs, ByteStream for the rest, no hash checked."""
        found: dict[str, bytes] = {}
        batch: list[reapi.Digest] = []
        batch_bytes = 0
        batches: list[list[reapi.Digest]] = []
        for digest in digests:
            if digest.size_bytes == 0:
                found[digest.hash] = b""
            elif digest.size_bytes >= self.batch_bytes:
                found[digest.hash] = await self._retry(partial(self._read, digest))
            else:
                batch_bytes += digest.size_bytes
                if batch_bytes >= self.batch_bytes:
                    batches.append(batch)
                    batch, batch_bytes = [], digest.size_bytes
                batch.append(digest)
        for wanted in [*batches, batch] if batch else batches:
            request = reapi.BatchReadBlobsRequest(
                instance_name=self.instance,
                digests=wanted,
                acceptable_compressors=[reapi.Compressor.IDENTITY],
            )
            answer = await self._retry(partial(self._call, rpcs.BATCH_READ_BLOBS, request))
            for entry in answer.responses:
                if entry.status.code != Code.OK:
                    raise Buck2Fails(f"{entry.digest.hash}: {entry.status.message}")
                found[entry.digest.hash] = entry.data
            if absent := [digest.hash for digest in wanted if digest.hash not in found]:
                raise Buck2Fails(f"Did not receive digest data for {absent}")
        return found

    async def directory_files(self, tree_digest: reapi.Digest) -> dict[str, reapi.FileNode]:
        """`re_tree_to_directory`: encodes each child anew and looks it up by the hash of that."""
        data = (await self.download([tree_digest]))[tree_digest.hash]
        tree = reapi.Tree.FromString(data)
        children = {self.blob(c.SerializeToString()).digest.hash: c for c in tree.children}
        files: dict[str, reapi.FileNode] = {}

        def walk(directory: reapi.Directory, prefix: str) -> None:
            for node in directory.files:
                files[prefix + node.name] = node
            for child in directory.directories:
                if child.digest.hash not in children:
                    raise Buck2Fails(f"Incomplete list of children: {prefix}{child.name}")
                walk(children[child.digest.hash], f"{prefix}{child.name}/")

        walk(tree.root, "")
        return files

    async def has_permission_to_upload(self, platform: Mapping[str, str]) -> bool:
        """Probes as before a first cache upload: Action without input root, empty result."""
        probe = self.prepare(
            ["/command", "-to", "check", "permission", "EMPTY_ACTION_RESULT_fztiucvwawdmarhheqoz"],
            input_root=None,
            platform=platform,
        )
        await self.upload(probe.blobs)
        result = reapi.ActionResult()
        result.execution_metadata.virtual_execution_duration.FromSeconds(0)
        for name in _TIMESTAMPS:
            getattr(result.execution_metadata, name).FromSeconds(0)
        try:
            await self.write_action_result(probe.digest, result)
        except CallFailed as error:
            if error.code is Code.PERMISSION_DENIED:
                return False
            raise
        return True

    async def _call(self, rpc: rpcs.Rpc[rpcs.Req, rpcs.Resp], request: rpcs.Req) -> rpcs.Resp:
        return await self._channel.call(rpc, request, metadata=self._metadata)

    async def _retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        delay = 0.1
        for _ in range(ATTEMPTS - 1):
            try:
                return await attempt()
            except CallFailed as error:
                if error.code not in _RETRIED:
                    raise
            await asyncio.sleep(delay)
            delay *= 2
        return await attempt()

    async def _upload_batch(self, batch: list[Blob]) -> None:
        request = reapi.BatchUpdateBlobsRequest(instance_name=self.instance)
        for blob in batch:
            request.requests.add(
                digest=blob.digest, data=blob.data, compressor=reapi.Compressor.IDENTITY
            )
        answer = await self._retry(lambda: self._call(rpcs.BATCH_UPDATE_BLOBS, request))
        failures = [r for r in answer.responses if r.status.code != Code.OK]
        if failures:
            raise Buck2Fails(f"Batch upload failed: {failures}")

    async def _upload_stream(self, blob: Blob) -> None:
        # One name for all attempts: a retry starts again at 0 under the same uuid.
        name = self._upload_name(blob.digest)
        await self._retry(lambda: self.write(name, blob.data))

    def _upload_name(self, digest: reapi.Digest) -> str:
        prefix = f"{self.instance}/" if self.instance else ""
        kind = f"compressed-blobs/{self.compressor}" if self.compressor else "blobs"
        return f"{prefix}uploads/{uuid.uuid4()}/{kind}/{digest.hash}/{digest.size_bytes}"

    async def write(self, name: str, data: bytes) -> None:
        """Writes one blob: messages of up to a whole batch limit, every one with the name."""
        encoded = self._encode(data)
        pieces = [
            encoded[start : start + self.batch_bytes]
            for start in range(0, len(encoded), self.batch_bytes)
        ]

        async def requests() -> AsyncIterator[bytestream.WriteRequest]:
            offset = 0
            for index, piece in enumerate(pieces):
                yield bytestream.WriteRequest(
                    resource_name=name,
                    write_offset=offset,
                    data=piece,
                    finish_write=index == len(pieces) - 1,
                )
                offset += len(piece)

        answer = await self._channel.send(rpcs.WRITE, requests(), metadata=self._metadata)
        if answer.committed_size not in (len(encoded), -1):
            raise Buck2Fails(f"Failed to upload `{name}`: invalid committed_size")

    def _encode(self, data: bytes) -> bytes:
        if self.compressor is None:
            return data
        assert self.compressor == "zstd", "Buck2 prefers zstd, and the daemon offers it"
        # Like async-compression's encoder, which does not know the size beforehand.
        compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
        return compressor.compress(data) + compressor.flush()

    async def _read(self, digest: reapi.Digest) -> bytes:
        prefix = f"{self.instance}/" if self.instance else ""
        kind = f"compressed-blobs/{self.compressor}" if self.compressor else "blobs"
        request = bytestream.ReadRequest(
            resource_name=f"{prefix}{kind}/{digest.hash}/{digest.size_bytes}"
        )
        received = bytearray()
        async for piece in self._channel.stream(rpcs.READ, request, metadata=self._metadata):
            received += piece.data
        if self.compressor is None:
            return bytes(received)
        with zstandard.ZstdDecompressor().stream_reader(
            bytes(received), read_across_frames=True
        ) as reader:
            return reader.read()


_TIMESTAMPS = (
    "queued_timestamp",
    "worker_start_timestamp",
    "worker_completed_timestamp",
    "input_fetch_start_timestamp",
    "input_fetch_completed_timestamp",
    "execution_start_timestamp",
    "execution_completed_timestamp",
    "output_upload_start_timestamp",
    "output_upload_completed_timestamp",
)


def _checked(result: reapi.ActionResult) -> reapi.ActionResult:
    """`convert_action_result`: what must be there."""
    if not result.HasField("execution_metadata"):
        raise Buck2Fails("The execution metadata are not defined.")
    for file in result.output_files:
        if not file.HasField("digest"):
            raise Buck2Fails("Digest not found.")
    for directory in result.output_directories:
        if not directory.HasField("tree_digest"):
            raise Buck2Fails("Tree digest not defined.")
    return result
