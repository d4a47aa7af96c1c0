"""Runs a command to its end, or to one that is put to it: its timeout, or too little space."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from executor.capture import Capture
from executor.errors import WorkerFailure
from executor.process import Ending, Process

_WATCH_INTERVAL_S = 0.5
_DRAIN_TIMEOUT_S = 1.0
_TIMED_OUT = Ending(128 + 9)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it. No process of the action is left."""

    ending: Ending
    wall_s: float
    timed_out: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a command is stopped by."""

    start_timeout_s: float
    timeout_s: float
    stop: Callable[[], Awaitable[Ending | str]]
    """Asked now and then. Answers how it ends at a limit, or what there is too little of for it to
    go on; empty while there is enough.
    """


async def run(
    name: str,
    launch: Callable[[int, int], Process],
    captures: tuple[Capture, Capture],
    bounds: Bounds,
    begun: Callable[[], None],
) -> Run:
    """Launches a command with these as its stdout and stderr, and tells when it has begun.

    Raises WorkerFailure, and what `launch` does. Whatever happens, every process of the action is
    dead before it returns.
    """
    stdout, stderr = captures
    loop = asyncio.get_running_loop()
    try:
        process = launch(stdout.write_fd, stderr.write_fd)
    finally:
        for capture in captures:
            capture.close_write_end()
    try:
        async with asyncio.timeout(bounds.start_timeout_s):
            await process.release()
        started = loop.time()
        begun()
        ending = await _watch(process.ended, bounds)
        wall_s = loop.time() - started
    except TimeoutError:
        raise WorkerFailure(
            f"starting {name}: no sandbox after {bounds.start_timeout_s:g} s"
        ) from None
    finally:
        await process.kill()
    await _settle(captures)
    if ending is not None:
        return Run(ending, wall_s, timed_out=ending is _TIMED_OUT)
    ending = process.ending(stderr.beginning())
    if ending.stderr is not None:
        stderr.replace(ending.stderr)
    return Run(ending, wall_s, timed_out=False)


async def _watch(ended: asyncio.Future[None], bounds: Bounds) -> Ending | None:
    """Waits for the end; answers the one that is to be put to it, if that came first. Raises
    WorkerFailure.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + bounds.timeout_s
    while not ended.done():
        left = deadline - loop.time()
        if left <= 0:
            return _TIMED_OUT
        await asyncio.wait([ended], timeout=min(left, _WATCH_INTERVAL_S))
        if not ended.done() and (stop := await bounds.stop()):
            if isinstance(stop, Ending):
                return stop
            raise WorkerFailure(f"killed: {stop}")
    return None


async def _settle(captures: tuple[Capture, Capture]) -> None:
    """Reads what was printed to its end."""
    for capture in captures:
        capture.drain()
    open_still = [capture.ended for capture in captures if not capture.ended.done()]
    if open_still:  # Others hold the pipe as well.
        await asyncio.wait(open_still, timeout=_DRAIN_TIMEOUT_S)
    for capture in captures:
        capture.stop()
