"""What some cases need and no remote client has: a hand inside the server.

A server's author gives `run(..., control=...)` an object of a subclass of `NoControl` that
overrides what it can do; each method left alone makes the cases that need it `skipped`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.conformance.model import Skipped


class Variant(StrEnum):
    """A server of the same make, started on its own with one thing different."""

    SMALL_STORE = "small-store"
    """Takes about 8 MiB of blobs, then evicts whatever was unused for longest (no longer lease)."""
    FULL_DISK = "full-disk"
    """The disk below the store has about 8 MiB left, and nothing may be evicted."""
    READ_ONLY_CACHE = "read-only-cache"
    """UpdateActionResult is forbidden to this client."""
    NO_COMPRESSION = "no-compression"
    """Advertises no compressor."""
    SHORT_RESUME = "short-resume"
    """Keeps broken uploads to be resumed for at most a second, or not at all."""
    BLOB_LIMIT = "blob-limit"
    """`max_cas_blob_size_bytes` is 1 MiB."""
    INSTANCES = "instances"
    """Serves the instances `` (empty) and `a/b/c`, and no other."""
    ONE_SLOT = "one-slot"
    """Runs one action at a time and drops a queued action soon after its last watcher left."""
    SHORT_TIMEOUT = "short-timeout"
    """The longest timeout that an action may ask for is at most 10 minutes."""
    STRICT_PLATFORM = "strict-platform"
    """Rejects platform properties that it does not know, but ignores `conformance-ignored`."""
    SYMLINKS_DISALLOWED = "symlinks-disallowed"
    """Advertises SymlinkAbsolutePathStrategy DISALLOWED."""
    SYMLINKS_ALLOWED = "symlinks-allowed"
    """Advertises SymlinkAbsolutePathStrategy ALLOWED."""
    DISPOSABLE = "disposable"
    """An ordinary server that the case may drain or whose workers it may kill."""


class ServerControl(Protocol):
    """The hooks. Every one may raise Skipped with the reason."""

    async def evict(self, digest: reapi.Digest) -> None:
        """Removes a blob as eviction would."""

    async def corrupt(self, digest: reapi.Digest) -> None:
        """Changes bytes of the stored blob behind the server's back, keeping its length."""

    async def temporary_bytes(self) -> int:
        """Answers how much space unfinished uploads take."""

    async def memory_bytes(self) -> int:
        """Answers the resident memory of the server's process."""

    async def is_running(self, text: str) -> bool:
        """Answers whether a process with this text among its arguments lives on any worker."""

    async def kill_worker(self) -> None:
        """Kills, without warning, the worker that runs the only running action."""

    async def drain(self) -> None:
        """Begins an orderly shutdown and returns at once."""

    def variant(self, variant: Variant) -> AbstractAsyncContextManager[Server]:
        """Starts a server of its own and stops it at the end."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a variant listens, and the hand inside it."""

    target: str
    instance: str
    control: ServerControl


class NoControl:
    """No hand inside the server: every hook skips."""

    async def evict(self, digest: reapi.Digest) -> None:  # noqa: ARG002
        """Skips."""
        raise Skipped("needs a way to evict a blob (ServerControl.evict)")

    async def corrupt(self, digest: reapi.Digest) -> None:  # noqa: ARG002
        """Skips."""
        raise Skipped("needs a way to damage a stored blob (ServerControl.corrupt)")

    async def temporary_bytes(self) -> int:
        """Skips."""
        raise Skipped("needs sight of the server's disk (ServerControl.temporary_bytes)")

    async def memory_bytes(self) -> int:
        """Skips."""
        raise Skipped("needs sight of the server's memory (ServerControl.memory_bytes)")

    async def is_running(self, text: str) -> bool:  # noqa: ARG002
        """Skips."""
        raise Skipped("needs sight of the workers' processes (ServerControl.is_running)")

    async def kill_worker(self) -> None:
        """Skips."""
        raise Skipped("needs a way to kill a worker (ServerControl.kill_worker)")

    async def drain(self) -> None:
        """Skips."""
        raise Skipped("needs a way to drain the server (ServerControl.drain)")

    def variant(self, variant: Variant) -> AbstractAsyncContextManager[Server]:
        """Skips."""
        raise Skipped(f"needs a server set up as {variant} (ServerControl.variant)")
