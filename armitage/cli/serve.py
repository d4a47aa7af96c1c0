"""`armitage serve`: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armitage.cli import options
from armitage.cli.exits import Exit, NotStarted
from armitage.cli.output import note
from armitage.cli.overrides import add_overrides, effective_config

if TYPE_CHECKING:
    from armitage.config import Config
    from armitage.daemon import Daemon


def add(commands: options.Commands) -> None:
    """Adds the command."""
    parser = options.add_command(
        commands,
        "serve",
        _serve,
        "start the daemon, in the foreground",
        "Starts the daemon. SIGTERM or Ctrl-C lets running work end (drain_s) and stops; a second"
        " one stops at once.",
    )
    add_overrides(parser)
    parser.add_argument(
        "--ready-file",
        metavar="FILE",
        type=Path,
        help="write addresses and pid here as JSON once everything is served",
    )


def _serve(args: argparse.Namespace) -> int:
    from armitage import compiled

    compiled.inspect().check()
    config = effective_config(args)
    return asyncio.run(_Serving(args, config).run())


class _Serving:
    """Runs one daemon until a signal ends it."""

    def __init__(self, args: argparse.Namespace, config: Config) -> None:
        self._args = args
        self._config = config
        self._asked = asyncio.Event()
        self._urged = asyncio.Event()
        self._starting: asyncio.Task[Any] | None = None
        self._signal = 0

    async def run(self) -> int:
        """Answers the exit code. Raises NotStarted."""
        self._starting = asyncio.current_task()
        self._open_logs()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        daemon = await self._start()
        self._starting = None
        try:
            self._announce(daemon)
            await self._asked.wait()
            await self._drain(daemon)
        finally:
            await daemon.stop()
            if self._args.ready_file is not None:
                self._args.ready_file.unlink(missing_ok=True)
        return 128 + self._signal if self._urged.is_set() else Exit.OK

    def _open_logs(self) -> None:
        from armitage.observability.logs import open_logs
        from armitage.observability.redaction import Redactor

        open_logs(self._config.log, sys.stderr, Redactor())

    def _on_signal(self, number: int) -> None:
        self._signal = number
        if self._starting is not None:
            self._starting.cancel()
        if self._asked.is_set():
            self._urged.set()
        self._asked.set()

    async def _start(self) -> Daemon:
        from armitage.daemon import Daemon
        from armitage.errors import ArmitageError
        from cas.errors import CasError
        from executor.errors import ExecutorError

        daemon = Daemon(self._config)
        try:
            await daemon.start()
        except (ArmitageError, CasError, ExecutorError) as error:
            raise NotStarted(f"cannot start: {error}") from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise NotStarted(f"cannot start: {where}{error.strerror or error}") from error
        except asyncio.CancelledError:
            raise NotStarted("stopped by a signal while starting") from None
        return daemon

    def _announce(self, daemon: Daemon) -> None:
        from armitage.cli.banner import banner, facts

        known = facts(self._config, daemon)
        print(json.dumps(known) if self._args.json else banner(known), flush=True)
        if self._args.ready_file is not None:
            _write_whole(self._args.ready_file, json.dumps(known))

    async def _drain(self, daemon: Daemon) -> None:
        note(f"draining for up to {self._config.drain_s:g} s; the same signal again stops at once")
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(daemon.drain())
            urged = group.create_task(self._urged.wait())
            await asyncio.wait((draining, urged), return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            urged.cancel()


def _write_whole(path: Path, text: str) -> None:
    """Whoever sees the file sees all of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
