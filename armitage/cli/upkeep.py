"""`armitage fsck` and `armitage gc`: looking after what is stored, with the daemon or without."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armitage.cli import options
from armitage.cli.exits import Exit, NotStarted
from armitage.cli.output import emit, size_text, time_text
from armitage.cli.overrides import default_data_dir
from armitage.cli.progress import ProgressLine

if TYPE_CHECKING:
    from armitage._proto.armitage.storage.v1 import storage_pb2 as pb
    from armitage.config import Config
    from armitage.reapi.storage import StorageService
    from cas.pack_storage import PackStorage
    from cas.scrub import Repair

_BAR = 24
_OURSELVES = "unix:"


def add(commands: options.Commands) -> None:
    """Adds both commands."""
    fsck = options.add_command(
        commands,
        "fsck",
        lambda args: asyncio.run(_fsck(args)),
        "read and verify everything stored (exit code 1 when some was damaged)",
        "Reads and verifies all blobs and results. What is damaged is dropped, with a copy in"
        " DATA_DIR/cas/damaged, and reads as missing from then on. The daemon does it in the"
        " background, at upkeep.rate_bytes; with --offline, for a daemon that does not run, it is"
        " done here, as fast as the disk is.",
    )
    fsck.add_argument(
        "--repair", action="store_true", help="get damaged blobs from the bucket ([remote]) again"
    )
    _add_offline(fsck)
    options.add_connection(fsck)

    gc = options.add_command(
        commands,
        "gc",
        lambda args: asyncio.run(_gc(args)),
        "give up old blobs and give their room back to the disk, now",
        "Gives up least recently used blobs and compacts, as the daemon does by itself in the"
        " background. What is leased or in use stays, whatever is asked for.",
    )
    gc.add_argument(
        "--to",
        metavar="SIZE",
        type=options.size,
        help="until no more than this is stored (default: upkeep.low_watermark, if over the high)",
    )
    gc.add_argument(
        "--garbage-share",
        metavar="PART",
        type=float,
        help="compact what has more garbage than this part (default: upkeep.garbage_share)",
    )
    _add_offline(gc)
    options.add_connection(gc)


def _add_offline(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("offline")
    group.add_argument("--offline", action="store_true", help="on the directory; no daemon may run")
    group.add_argument("--config", metavar="FILE", type=Path, help="the daemon's configuration")
    group.add_argument("--data-dir", metavar="DIR", help="where its data is kept")


async def _fsck(args: argparse.Namespace) -> Exit:
    from armitage._proto.armitage.storage.v1 import storage_pb2 as pb

    request = pb.ScrubRequest(instance_name=args.instance, repair=args.repair)
    last = pb.ScrubProgress()
    with ProgressLine(shown=options.is_terminal() and not args.json) as line:
        started = time.monotonic()
        async with _scrubbing(args, request) as answers:
            async for last in answers:
                line.say(progress_text(last, time.monotonic() - started))
    emit(args, _fsck_value(last), _fsck_lines(last))
    return Exit.NO if last.damaged or last.damaged_results else Exit.OK


def progress_text(now: pb.ScrubProgress, passed_s: float) -> str:
    """`[####      ] 40% 1.5 GiB of 3.8 GiB, 3m left, 2 damaged`."""
    part = now.done_bytes / now.total_bytes if now.total_bytes else 1.0
    filled = round(part * _BAR)
    text = f"[{'#' * filled:{_BAR}}] {part:4.0%}  {size_text(now.done_bytes)} of"
    text += f" {size_text(now.total_bytes)}"
    if 0 < part < 1:
        text += f", {time_text(passed_s * (1 - part) / part)} left"
    bad = len(now.damaged) + now.damaged_results
    return f"{text}, {bad} damaged" if bad else text


def _fsck_value(last: pb.ScrubProgress) -> dict[str, Any]:
    return {
        "bytes": last.total_bytes,
        "blobs": last.blobs,
        "results": last.results,
        "damaged": list(last.damaged),
        "repaired": list(last.repaired),
        "damaged_results": last.damaged_results,
    }


def _fsck_lines(last: pb.ScrubProgress) -> list[str]:
    repaired = set(last.repaired)
    lines = [
        f"{'repaired' if digest in repaired else 'damaged '}  {digest}" for digest in last.damaged
    ]
    text = f"read {last.blobs} blobs and {last.results} results ({size_text(last.total_bytes)}): "
    if not last.damaged and not last.damaged_results:
        return [*lines, text + "no damage"]
    text += f"{len(last.damaged)} blobs damaged, {len(repaired)} of them repaired"
    if last.damaged_results:
        text += f", {last.damaged_results} results damaged"
    return [*lines, text]


async def _gc(args: argparse.Namespace) -> Exit:
    from armitage._proto.armitage.storage.v1 import storage_pb2 as pb

    request = pb.CollectRequest(
        instance_name=args.instance, most_bytes=args.to, garbage_share=args.garbage_share
    )
    done = await _collect(args, request)
    value = {
        "evicted_bytes": done.evicted_bytes,
        "compacted_segments": done.compacted_segments,
        "freed_bytes": done.freed_bytes,
    }
    text = (
        f"gave up {size_text(done.evicted_bytes)} of blobs; compacted {done.compacted_segments}"
        f" segments, which freed {size_text(done.freed_bytes)} of the disk"
    )
    emit(args, value, [text])
    return Exit.OK


@asynccontextmanager
async def _scrubbing(
    args: argparse.Namespace, request: pb.ScrubRequest
) -> AsyncIterator[AsyncIterator[pb.ScrubProgress]]:
    from armitage._proto.armitage.storage.v1 import storage_pb2 as pb
    from armitage.cli.connection import channel_for
    from armitage.reapi import rpcs
    from armitage.transport.port import Call

    if not args.offline:
        async with (
            channel_for(args) as channel,
            aclosing(channel.stream(rpcs.SCRUB, request)) as answers,
        ):
            yield answers
        return
    async with _offline(args) as service:
        call = Call(rpcs.SCRUB.path, peer=_OURSELVES)
        encoded = service.scrub(request.SerializeToString(), call)
        yield (pb.ScrubProgress.FromString(answer) async for answer in encoded)


async def _collect(args: argparse.Namespace, request: pb.CollectRequest) -> pb.CollectResponse:
    from armitage._proto.armitage.storage.v1 import storage_pb2 as pb
    from armitage.cli.connection import channel_for
    from armitage.reapi import rpcs
    from armitage.transport.port import Call

    if not args.offline:
        async with channel_for(args) as channel:
            return await channel.call(rpcs.COLLECT, request)
    async with _offline(args) as service:
        call = Call(rpcs.COLLECT.path, peer=_OURSELVES)
        return pb.CollectResponse.FromString(
            await service.collect(request.SerializeToString(), call)
        )


@asynccontextmanager
async def _offline(args: argparse.Namespace) -> AsyncIterator[StorageService]:
    """The service of a daemon that does not run. Raises ConfigError, NotStarted."""
    from armitage.clock import SystemClock
    from armitage.reapi.instances import Instances
    from armitage.reapi.invocations import Invocations
    from armitage.reapi.storage import StorageService
    from cas.errors import CasError
    from cas.upkeep import Upkeep

    config = _config(args)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        try:
            storage = await _open(config, stack)
        except (CasError, OSError) as error:
            raise NotStarted(f"cannot open the store: {error}") from error
        yield StorageService(
            storage.store,
            Instances(config.instances),
            Invocations(storage.store, clock.monotonic),
            (storage.store.stats, storage.cache.stats),
            disk=Upkeep(storage, config.upkeep, _at_once),
            repair=_repair(config, storage) if getattr(args, "repair", False) else None,
        )


def _config(args: argparse.Namespace) -> Config:
    from armitage.config import load

    data_dir = args.data_dir and str(Path(args.data_dir).absolute())
    config = load(args.config, {"data_dir": data_dir} if data_dir else {})
    return config if config.data_dir else replace(config, data_dir=default_data_dir())


async def _open(config: Config, stack: AsyncExitStack) -> PackStorage:
    from armitage.clock import SystemClock
    from cas.errors import StoreUnavailable
    from cas.pack_storage import Clocks, PackStorage, StorageOptions
    from cas.upkeep import segment_bytes_for

    assert config.data_dir is not None
    directory = config.data_dir / "cas"
    if not directory.is_dir():
        raise StoreUnavailable(f"there is none in {config.data_dir}; name another --data-dir")
    clock = SystemClock()
    made = StorageOptions(
        config.disk, config.disk_action_cache, segment_bytes_for(config.disk.max_bytes)
    )
    storage = await PackStorage.open(directory, made, Clocks(clock.monotonic, clock.wall))
    stack.push_async_callback(storage.close)
    return storage


def _repair(config: Config, storage: PackStorage) -> Repair:
    from armitage.clock import SystemClock
    from armitage.errors import ConfigError
    from armitage.remote import open_remote
    from cas.scrub import repair_from

    if not config.remote.s3.bucket:
        raise ConfigError("remote.s3.bucket: there is no bucket to repair from; set one")
    assert config.data_dir is not None
    spool = config.data_dir / "spool"
    spool.mkdir(exist_ok=True)
    remote = open_remote(config.remote, SystemClock(), spool=spool)
    return repair_from(remote.store, storage.store)


async def _at_once(_seconds: float) -> None:
    """Nobody else wants the disk, but the event loop has other things to do."""
    await asyncio.sleep(0)
