"""Case 108: log streams."""

from __future__ import annotations

import asyncio

from armitage._proto.build.bazel.remote.logstream.v1 import remote_logstream_pb2 as logstream
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.client.channel import CallFailed
from armitage.conformance.model import Level, Need, Skipped, case
from armitage.conformance.session import Session, describe, new_upload, write_requests
from armitage.reapi import rpcs
from armitage.transport.port import Code


async def _create(s: Session) -> logstream.LogStream:
    candidates = [s.options.log_parent] if s.options.log_parent else ["", "projects/conformance"]
    if s.instance and not s.options.log_parent:
        candidates.insert(0, s.instance)
    seen = ""
    for parent in candidates:
        request = logstream.CreateLogStreamRequest(parent=parent)
        try:
            return await s.channel.call(
                rpcs.CREATE_LOG_STREAM, request, timeout=s.options.call_timeout_s
            )
        except CallFailed as error:
            seen = f"parent {parent!r}: {describe(error)}"
    raise Skipped(f"{seen}; name a parent that is allowed with --log-parent")


@case(
    108,
    "A log can be read while it grows; its write name cannot be read, nor its name written",
    source="LogStream.name, .write_resource_name",
    needs=(Need.LOGSTREAM, Need.BYTESTREAM),
)
async def growing_log_is_read(s: Session) -> None:
    stream = await _create(s)
    name, secret = stream.name, stream.write_resource_name
    s.check("/logstreams/" in f"/{name}", f"the name is {name!r}")
    s.check(secret.startswith(f"{name}/"), "write_resource_name is not below the name")
    await s.rejected(s.read_named(secret), {Code.INVALID_ARGUMENT}, "reading the write name")
    await s.rejected(
        s.send_writes(write_requests(name, b"forged")),
        {Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED, Code.NOT_FOUND},
        "writing to the public name",
        code_level=Level.SHOULD,
    )
    await _check_tail(s, name, secret)
    whole = await s.read_named(name)
    s.check(whole == b"first, second\n", f"read after the end, it is {whole[:40]!r}")
    missing = f"{name}-{new_upload()}"
    await s.rejected(
        s.read_named(missing), {Code.NOT_FOUND, Code.INVALID_ARGUMENT}, "a log never created"
    )


async def _check_tail(s: Session, name: str, secret: str) -> None:
    """Reads while writing: the first bytes must come before the last are written."""
    request = bytestream.ReadRequest(resource_name=name)
    got, some = bytearray(), asyncio.Event()

    async def tail() -> None:
        reader = s.channel.stream(rpcs.READ, request, timeout=s.options.call_timeout_s)
        async for response in reader:
            got.extend(response.data)
            if got:
                some.set()

    async with asyncio.TaskGroup() as group, s.open_write() as writer:
        group.create_task(tail())
        writer.send(secret, 0, b"first")
        try:
            async with asyncio.timeout(s.options.patience_s * 2):
                await some.wait()
        except TimeoutError:
            s.fail("a reader gets nothing before the log is finished")
        writer.send("", 5, b", second\n", finish=True)
        writer.half_close()
        committed = await writer.answer(s.options.call_timeout_s)
        s.check(committed == 14, f"committed_size is {committed}, not 14")
    s.check(bytes(got) == b"first, second\n", f"the reader got {bytes(got)!r}")
