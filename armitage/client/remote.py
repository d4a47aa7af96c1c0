"""One instance at one server: its address, and what its capabilities say."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import Channel, Metadata
from armitage.client.errors import UsageError
from armitage.reapi import rpcs
from armitage.reapi.digests import MARKED_FUNCTIONS, WIRE_FUNCTIONS
from armitage.reapi.request_metadata import HEADER
from cas.digest import Digest, DigestFunction

DEFAULT_PORT = 8980
DEFAULT_BATCH_BYTES = 4_000_000
"""Used when the server names no limit; below the 4 MiB that receivers take by default."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    target: str
    """`host:port` or `unix:PATH`, as grpcio takes it."""
    tls: bool


def parse_address(text: str) -> Address:
    """Parses `grpc://HOST[:PORT]`, `grpcs://HOST[:PORT]`, `HOST[:PORT]` or `unix:PATH`.

    Raises UsageError.
    """
    if text.startswith("unix:"):
        return Address(text, tls=False)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "grpc", text
    rest = rest.rstrip("/")
    if scheme not in ("grpc", "grpcs") or not rest or "/" in rest:
        raise UsageError(f"{text!r} is not a server address; write grpc://HOST:PORT or grpcs://…")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        return Address(f"{rest}:{DEFAULT_PORT}", tls=scheme == "grpcs")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{text!r} has no valid port; write grpc://HOST:PORT")
    return Address(rest, tls=scheme == "grpcs")


@dataclass(frozen=True, slots=True)
class Remote:
    """An instance that has answered GetCapabilities, and how we talk to it."""

    channel: Channel
    instance: str
    function: DigestFunction
    max_batch_bytes: int
    exec_enabled: bool

    @property
    def wire_function(self) -> str:
        """The `digest_function` field of our requests, by name."""
        return self.function.name

    def read_name(self, digest: Digest) -> str:
        """The ByteStream name to read a blob from."""
        return self._prefix() + _blob_name(digest)

    def write_name(self, digest: Digest, upload: str) -> str:
        """The ByteStream name to write a blob to; `upload` is a UUID."""
        return f"{self._prefix()}uploads/{upload}/{_blob_name(digest)}"

    def _prefix(self) -> str:
        return f"{self.instance}/" if self.instance else ""


async def connect(
    channel: Channel, instance: str = "", function: DigestFunction | None = None
) -> Remote:
    """Asks an instance what it can do and settles on a digest function: the one asked for, SHA256
    where it is offered, else the first offered that we know.

    Raises CallFailed; UsageError when there is no function in common.
    """
    answer = await channel.call(
        rpcs.GET_CAPABILITIES, reapi.GetCapabilitiesRequest(instance_name=instance), timeout=30
    )
    cache = answer.cache_capabilities
    return Remote(
        channel=channel,
        instance=instance,
        function=_choose(cache, function),
        max_batch_bytes=min(
            cache.max_batch_total_size_bytes or DEFAULT_BATCH_BYTES, DEFAULT_BATCH_BYTES
        ),
        exec_enabled=answer.execution_capabilities.exec_enabled,
    )


def invocation_metadata(tool_version: str) -> Metadata:
    """Metadata that makes the calls of this program one invocation (REAPI `RequestMetadata`), so
    that the server keeps what they refer to.
    """
    metadata = reapi.RequestMetadata(
        tool_details=reapi.ToolDetails(tool_name="armitage", tool_version=tool_version),
        tool_invocation_id=secrets.token_hex(16),
    )
    return ((HEADER, metadata.SerializeToString()),)


def _blob_name(digest: Digest) -> str:
    mark = f"{digest.function}/" if digest.function in MARKED_FUNCTIONS else ""
    return f"blobs/{mark}{digest.hash}/{digest.size_bytes}"


def _choose(cache: reapi.CacheCapabilities, asked: DigestFunction | None) -> DigestFunction:
    wire = {value: function for function, value in WIRE_FUNCTIONS.items()}
    offered = [wire[value] for value in cache.digest_functions if value in wire]
    if asked is not None and asked in offered:
        return asked
    if asked is not None or not offered:
        names = ", ".join(offered) or "none that this client knows"
        wanted = f"{asked} is not offered" if asked else "no digest function in common"
        raise UsageError(f"{wanted}; the server offers {names}")
    return DigestFunction.SHA256 if DigestFunction.SHA256 in offered else offered[0]
