"""`armitage run`: any command, remotely."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armitage.cli import options
from armitage.cli.exits import Exit
from armitage.cli.output import emit, note, size_text
from armitage.cli.progress import ProgressLine

if TYPE_CHECKING:
    from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
    from armitage.client.remote import Remote
    from armitage.client.runs import Packed
    from cas.digest import Digest

_TICK_S = 0.25
_CANCEL_TIMEOUT_S = 2.0


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "run",
        lambda args: asyncio.run(_run(args)),
        "run any command remotely and bring its outputs back",
        "Uploads the input directory, runs CMD in it at the server, prints what it prints and"
        " brings the outputs back. The exit code is the command's own (128 + N for death by"
        " signal N); 125 says that the command was not run to its end, or left out an output.",
    )
    parser.usage_exit = Exit.RUN_FAILED
    parser.set_defaults(failure_exit=Exit.RUN_FAILED)
    parser.add_argument("--input", metavar="DIR", type=Path, help="input root (default: empty)")
    parser.add_argument(
        "--output",
        metavar="PATH",
        action="append",
        default=[],
        help="file or directory to bring back, relative to the working directory; repeatable",
    )
    parser.add_argument(
        "--into", metavar="DIR", type=Path, default=Path(), help="where outputs go (default: .)"
    )
    parser.add_argument(
        "--outside-links",
        action="store_true",
        help="also bring back symlinks that may lead outside DIR",
    )
    parser.add_argument(
        "--env",
        metavar="K=V",
        action="append",
        type=options.pair,
        default=[],
        help="environment variable of the command; repeatable",
    )
    parser.add_argument(
        "--platform",
        metavar="K=V",
        action="append",
        type=options.pair,
        default=[],
        help="platform property; repeatable",
    )
    parser.add_argument(
        "--cwd", metavar="PATH", default="", help="working directory below the input root"
    )
    parser.add_argument(
        "--timeout", metavar="TIME", type=options.duration, help="seconds, or e.g. 90s, 1h30m"
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="neither look the result up nor remember it",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="print output as it comes also where it does not go to a terminal; what a fast command"
        " prints may be repeated whole at the end",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    parser.add_argument(
        "command", metavar="CMD", nargs="+", help="command and its arguments, after --"
    )
    options.add_connection(parser)


async def _run(args: argparse.Namespace) -> int:
    from armitage.cli.connection import remote_for
    from armitage.client.errors import UsageError
    from armitage.client.runs import Run, check_output_path, pack

    run = Run(
        arguments=args.command,
        input=args.input,
        outputs=[check_output_path(path) for path in args.output],
        environment=dict(args.env),
        platform=args.platform,
        working_directory=args.cwd.rstrip("/"),
        timeout_s=args.timeout,
        do_not_cache=args.no_cache,
    )
    shown = options.is_terminal() and not args.quiet and not args.json
    with ProgressLine(shown=shown) as line:
        line.say("connecting")
        async with remote_for(args) as remote:
            if not remote.exec_enabled:
                raise UsageError(
                    f"{args.server} does not execute, it only caches (`armitage doctor` on its"
                    " host says what is missing there)"
                )
            line.say("reading the input directory")
            packed = await asyncio.to_thread(pack, run, remote.function)
            session = _Session(args, remote, packed, run.outputs, line)
            return await session.run()


class _Live:
    """What has been printed while the command ran."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hasher = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self.size_bytes += len(data)
        self._hasher.update(data)

    def digest(self) -> bytes:
        return self._hasher.digest()


class _Session:
    """One run: upload, execute, output, and once more if the server lost blobs meanwhile."""

    def __init__(
        self,
        args: argparse.Namespace,
        remote: Remote,
        packed: Packed,
        outputs: Any,
        line: ProgressLine,
    ) -> None:
        self._args = args
        self._remote = remote
        self._packed = packed
        self._outputs = outputs
        self._line = line
        self._live = {"stdout": _Live(), "stderr": _Live()}
        self._tailed: set[str] = set()
        self._operation = ""

    async def run(self) -> int:
        from armitage.client.execution import failure_of, only_blobs_are_missing

        await self._upload()
        try:
            response = await self._execute()
        except asyncio.CancelledError:
            await self._cancel()
            raise
        if only_blobs_are_missing(response.status):
            # Lost between upload and execution; REAPI says to upload again.
            await self._upload()
            response = await self._execute()
        result = response.result
        await self._print_rest("stdout", result.stdout_raw, result.stdout_digest)
        await self._print_rest("stderr", result.stderr_raw, result.stderr_digest)
        if response.status.code:
            raise failure_of(response.status)
        await self._bring_back(result)
        if response.message and not self._has_printed(response):
            note(response.message)
        return await self._finish(response)

    def _has_printed(self, response: reapi.ExecuteResponse) -> bool:
        """Tells whether the message is all that came as stderr: of what could not be executed."""
        whole = self._remote.function.digest(f"armitage: {response.message}\n".encode())
        wire = response.result.stderr_digest
        return not self._args.json and (wire.hash, wire.size_bytes) == (
            whole.hash,
            whole.size_bytes,
        )

    async def _cancel(self) -> None:
        """After Ctrl-C: nobody waits for the command any more, so the server need not run it."""
        from armitage.client.channel import CallFailed
        from armitage.reapi import rpcs

        if self._operation:
            request = rpcs.CANCEL_OPERATION.request(name=self._operation)
            with contextlib.suppress(CallFailed):
                await self._remote.channel.call(
                    rpcs.CANCEL_OPERATION, request, timeout=_CANCEL_TIMEOUT_S
                )

    async def _upload(self) -> None:
        from armitage.client.blobs import upload

        sent = 0

        def heard(size_bytes: int) -> None:
            nonlocal sent
            sent += size_bytes
            self._line.say(f"uploading inputs, {size_text(sent)}")

        self._line.say(f"looking for {len(self._packed.blobs)} blobs")
        await upload(self._remote, self._packed.blobs, heard)

    async def _execute(self) -> reapi.ExecuteResponse:
        """Executes, with the command's live output and a ticking progress line beside."""
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._tick())]
            try:
                return await self._follow(group, beside)
            finally:
                for task in beside:
                    task.cancel()

    async def _follow(
        self, group: asyncio.TaskGroup, beside: list[asyncio.Task[None]]
    ) -> reapi.ExecuteResponse:
        from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
        from armitage.client.execution import execute

        self._line.say("asking to execute")
        async for update in execute(
            self._remote,
            self._packed.action,
            skip_cache_lookup=self._args.no_cache,
            monotonic=time.monotonic,
        ):
            self._operation = update.operation
            if update.response is not None:
                return update.response
            stage = reapi.ExecutionStage.Value.Name(update.metadata.stage)
            self._line.say(stage.lower().replace("_", " "))
            for kind, name in (
                ("stdout", update.metadata.stdout_stream_name),
                ("stderr", update.metadata.stderr_stream_name),
            ):
                if name and name not in self._tailed and self._is_live(kind):
                    self._tailed.add(name)
                    beside.append(group.create_task(self._tail(kind, name)))
        raise AssertionError("execute ends with a response or an error")

    def _is_live(self, kind: str) -> bool:
        """Whether to print as it comes. Files and pipes get the one true output, at the end."""
        if self._args.json:
            return False
        return self._args.live or (sys.stderr if kind == "stderr" else sys.stdout).isatty()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._line.draw()

    async def _tail(self, kind: str, name: str) -> None:
        """Prints live output. Only a comfort: whatever it does not get to is printed at the end."""
        from armitage.client.channel import CallFailed
        from armitage.client.execution import tail_log

        seen = 0
        live = self._live[kind]
        try:
            async for data in tail_log(self._remote, name):
                fresh = data[max(0, live.size_bytes - seen) :]
                seen += len(data)
                live.add(fresh)
                self._line.above(fresh, to_stderr=kind == "stderr")
        except CallFailed:
            return

    async def _print_rest(self, kind: str, inline: bytes, wire: reapi.Digest) -> None:
        """Prints what was not printed live; all of it if something else was (a lagging reader loses
        the middle of a log, an earlier attempt may have printed other things).
        """
        if self._args.json or await self._continue(kind, self._chunks(inline, wire)):
            return
        note(f"the live {kind} was not all of it; here it is again, whole")
        self._live[kind] = _Live()
        await self._continue(kind, self._chunks(inline, wire))

    async def _continue(self, kind: str, chunks: AsyncIterator[bytes]) -> bool:
        """Prints what follows on the live output; answers whether they fit together."""
        live, head = self._live[kind], _Live()
        async for chunk in chunks:
            known = chunk[: live.size_bytes - head.size_bytes]
            head.add(known)
            if head.size_bytes == live.size_bytes:
                if head.digest() != live.digest():
                    return False
                self._line.above(chunk[len(known) :], to_stderr=kind == "stderr")
        return head.size_bytes == live.size_bytes

    async def _chunks(self, inline: bytes, wire: reapi.Digest) -> AsyncIterator[bytes]:
        from armitage.client.blobs import stream

        if inline:
            yield inline
        elif wire.size_bytes:
            async for chunk in stream(self._remote, self._digest(wire)):
                yield chunk

    async def _bring_back(self, result: reapi.ActionResult) -> None:
        from armitage.client.download import write
        from armitage.client.runs import plan_outputs

        if not self._outputs:
            return
        self._line.say("fetching outputs")
        plan = await plan_outputs(self._remote, result, self._outputs)
        await write(
            self._remote, plan, self._args.into, allow_outside_links=self._args.outside_links
        )

    async def _finish(self, response: reapi.ExecuteResponse) -> int:
        from armitage.client.errors import ClientError
        from armitage.client.runs import absent_outputs

        result = response.result
        absent = absent_outputs(result, self._outputs)
        if self._args.json:
            emit(self._args, await self._value(response, absent), ())
        if absent and result.exit_code == 0:
            raise ClientError(f"the command left no output {', '.join(absent)}")
        for path in absent:
            note(f"the command left no output {path}")
        return result.exit_code

    async def _value(self, response: reapi.ExecuteResponse, absent: list[str]) -> dict[str, Any]:
        result = response.result
        return {
            "exit_code": result.exit_code,
            "cached": response.cached_result,
            "action": f"{self._packed.action.hash}/{self._packed.action.size_bytes}",
            "operation": self._operation,
            "worker": result.execution_metadata.worker,
            "message": response.message,
            "outputs": [path for path in self._outputs if path not in absent],
            "absent_outputs": absent,
            "stdout": await self._text(result.stdout_raw, result.stdout_digest),
            "stderr": await self._text(result.stderr_raw, result.stderr_digest),
        }

    async def _text(self, inline: bytes, wire: reapi.Digest) -> str:
        chunks = [chunk async for chunk in self._chunks(inline, wire)]
        return b"".join(chunks).decode("utf-8", "replace")

    def _digest(self, wire: reapi.Digest) -> Digest:
        from cas.digest import Digest

        return Digest(self._remote.function, wire.hash, wire.size_bytes)
