"""Calls that are cancelled, cut, refused or wrong, many at once and again and again: when they are
over, the daemon has what it had before, and no more.
"""

import asyncio
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.longrunning import operations_pb2 as longrunning
from support.daemon import DaemonProcess, daemon_process

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.blobs import upload
from armitage.client.channel import CallFailed, Channel
from armitage.client.remote import Remote, connect
from armitage.client.runs import Run, pack
from armitage.reapi import rpcs
from armitage.reapi.digests import wire_digest
from armitage.transport.port import Code
from cas.digest import DigestFunction

SHA256 = DigestFunction.SHA256
MARK = "31415.92653"
"""How long the actions of the storm would sleep; also what to find their processes by."""
LARGE = bytes(8 << 20)
SETTINGS = """
[scheduler]
disconnect_grace_s = 0
running_grace_s = 0
[bytestream.uploads]
max_count = 0
[disk]
durability = "none"
[worker]
slots = 4
"""


@dataclass(frozen=True)
class Footprint:
    """What a daemon takes of its host."""

    descriptors: Counter[str]
    processes: int
    mounts: int
    files: frozenset[str]
    """In its data directory, but for what is stored; and where it may keep temporary files."""


def footprint(daemon: DaemonProcess, directory: Path) -> Footprint:
    proc = Path(f"/proc/{daemon.process.pid}")
    kinds: Counter[str] = Counter()
    for descriptor in (proc / "fd").iterdir():
        try:
            name = os.readlink(descriptor)
        except FileNotFoundError:
            continue
        if "/cas/packs/" not in name:
            kinds[name if name.startswith("/") else name.partition(":")[0]] += 1
    stored = ("data/cas/blobs", "data/cas/packs")
    files = {str(path.relative_to(directory)) for path in directory.rglob("*")}
    # Directories for the next actions: few and empty (tests/executor/test_scratch.py); their
    # numbers grow.
    files -= {name for name in files if re.fullmatch(r"data/scratch/spare/\d+", name)}
    return Footprint(
        kinds,
        len(descendants(daemon.process.pid)),
        len((proc / "mountinfo").read_text().splitlines()),
        frozenset(name for name in files if not name.startswith(stored)),
    )


def descendants(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child]
            try:
                found += descendants(child)
            except OSError:  # It ended while we looked.
                continue
    return found


def settled(daemon: DaemonProcess, directory: Path, expected: Footprint) -> Footprint:
    """The footprint once it is as expected, or after 20 s as it then is."""
    deadline = time.monotonic() + 20
    while (seen := footprint(daemon, directory)) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


def at_rest(daemon: DaemonProcess, directory: Path) -> Footprint:
    """The footprint when no action runs and two looks see the same. (The launcher stays.)"""
    deadline = time.monotonic() + 20
    before = footprint(daemon, directory)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = footprint(daemon, directory)
        if now == before and MARK.encode() not in b"".join(commands()):
            return now
        before = now
    raise AssertionError(f"the daemon does not come to rest: {before}")


async def stage(remote: Remote) -> reapi.Digest:
    """A new action that would run for hours, with children of its own and files in the making."""
    script = f"echo {secrets.token_hex()} | tee here /tmp/there; sleep {MARK} & sleep {MARK}"
    packed = pack(Run(("/bin/sh", "-c", script), outputs=("here",)), remote.function)
    await upload(remote, packed.blobs)
    return wire_digest(packed.action)


async def vanish(remote: Remote, wanted: int) -> None:
    """Leaves an execution as soon as it got to a stage."""
    request = reapi.ExecuteRequest(action_digest=await stage(remote))
    async with aclosing(remote.channel.stream(rpcs.EXECUTE, request)) as operations:
        async for operation in operations:
            metadata = reapi.ExecuteOperationMetadata()
            operation.metadata.Unpack(metadata)
            if metadata.stage >= wanted:
                return


async def cancel(remote: Remote) -> Code:
    request = reapi.ExecuteRequest(action_digest=await stage(remote))
    async with aclosing(remote.channel.stream(rpcs.EXECUTE, request)) as operations:
        is_cancelled = False
        async for operation in operations:
            if not is_cancelled:
                is_cancelled = True
                asked = longrunning.CancelOperationRequest(name=operation.name)
                await remote.channel.call(rpcs.CANCEL_OPERATION, asked)
    return code_of(operation)


async def code_at_the_end(remote: Remote, action: reapi.Digest) -> Code:
    *_, last = [
        operation
        async for operation in remote.channel.stream(
            rpcs.EXECUTE, reapi.ExecuteRequest(action_digest=action)
        )
    ]
    return code_of(last)


def code_of(operation: longrunning.Operation) -> Code:
    response = reapi.ExecuteResponse()
    assert operation.response.Unpack(response)
    return Code(response.status.code)


async def time_out(remote: Remote) -> Code:
    packed = pack(
        Run(("/bin/sleep", MARK), environment={"N": secrets.token_hex()}, timeout_s=0.05),
        remote.function,
    )
    await upload(remote, packed.blobs)
    return await code_at_the_end(remote, wire_digest(packed.action))


async def lack_inputs(remote: Remote) -> Code:
    node = reapi.FileNode(name="f", digest=wire_digest(SHA256.digest(secrets.token_bytes())))
    root = reapi.Directory(files=[node]).SerializeToString()
    command = reapi.Command(arguments=["/bin/true"]).SerializeToString()
    action = reapi.Action(
        command_digest=wire_digest(SHA256.digest(command)),
        input_root_digest=wire_digest(SHA256.digest(root)),
    ).SerializeToString()
    await upload(remote, {SHA256.digest(blob): blob for blob in (root, command, action)})
    return await code_at_the_end(remote, wire_digest(SHA256.digest(action)))


async def write(remote: Remote, blob: str, data: bytes, *, cut: bool) -> Code:
    """Writes part of a blob and leaves, or all of it, whatever it is."""
    name = f"uploads/{secrets.token_hex(8)}/{blob}"

    is_over = asyncio.Event()

    async def requests() -> AsyncIterator[bytestream.WriteRequest]:
        yield bytestream.WriteRequest(resource_name=name, data=data, finish_write=not cut)
        if cut:
            await is_over.wait()

    try:
        await remote.channel.send(rpcs.WRITE, requests(), timeout=0.3 if cut else 20)
    except CallFailed as failure:
        return failure.code
    finally:
        is_over.set()
    return Code.OK


async def stop_reading(remote: Remote) -> None:
    digest = SHA256.digest(LARGE)
    name = f"blobs/{digest.hash}/{digest.size_bytes}"
    request = bytestream.ReadRequest(resource_name=name)
    async with aclosing(remote.channel.stream(rpcs.READ, request)) as responses:
        async for _ in responses:
            return


async def babble(target: str) -> None:
    """Something that is no gRPC client, and hangs up."""
    host, port = target.rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + secrets.token_bytes(20))
    await writer.drain()
    writer.transport.abort()


async def storm(target: str, rounds: int) -> list[object]:
    """Answers how the calls ended whose end is known."""
    executing = reapi.ExecutionStage.EXECUTING
    async with Channel(target) as channel:
        remote = await connect(channel, "")
        await upload(remote, {SHA256.digest(LARGE): LARGE})
        ends: list[object] = []
        for _ in range(rounds):
            absent = SHA256.digest(secrets.token_bytes())
            blob = f"blobs/{absent.hash}/{absent.size_bytes}"
            packed = f"compressed-blobs/zstd/{absent.hash}/{absent.size_bytes}"
            ends += await asyncio.gather(
                vanish(remote, reapi.ExecutionStage.UNKNOWN),
                vanish(remote, executing),
                vanish(remote, executing),
                cancel(remote),
                time_out(remote),
                lack_inputs(remote),
                write(remote, blob, b"half", cut=True),
                write(remote, blob, b"wrong".ljust(absent.size_bytes), cut=False),
                write(remote, packed, b"no zstd", cut=False),
                stop_reading(remote),
                babble(target),
            )
        return ends


async def open_what_stays_open(target: str) -> None:
    """Also the directories of the store, of which each takes the blobs of one first digit."""
    async with Channel(target) as channel:
        remote = await connect(channel, "")
        blobs = [b"%d" % number for number in range(400)]
        await upload(remote, {SHA256.digest(blob): blob for blob in blobs})
    await storm(target, 2)


@pytest.mark.slow
def test_a_storm_of_failed_calls_leaves_nothing_behind(tmp_path: Path) -> None:
    config, temporary = tmp_path / "armitage.toml", tmp_path / "tmp"
    config.write_text(SETTINGS)
    temporary.mkdir()
    with daemon_process(
        tmp_path,
        *("--config", str(config), "--accept-unsandboxed"),
        env={"TMPDIR": str(temporary)},
    ) as daemon:
        asyncio.run(open_what_stays_open(daemon.target))
        before = at_rest(daemon, tmp_path)

        ends = asyncio.run(storm(daemon.target, 6))

        assert Counter(end for end in ends if end is not None) == {
            Code.CANCELLED: 6,
            Code.DEADLINE_EXCEEDED: 12,
            Code.FAILED_PRECONDITION: 6,
            Code.INVALID_ARGUMENT: 12,
        }
        assert settled(daemon, tmp_path, before) == before
        assert MARK.encode() not in b"".join(commands())
        assert daemon.stop() == 0
    assert list(temporary.iterdir()) == []


def commands() -> list[bytes]:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return found
