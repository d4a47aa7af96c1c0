"""Actions in virtual machines of their own.

How one action goes (see also executor.local, and init.sh for the guest's side):

1. The staged input tree is made into an ext4 image, by a mke2fs that sees nothing else.
2. QEMU or Firecracker starts, held back until it is in its control group; the guest boots from
   our initramfs.
3. The guest mounts the image and the toolchain's, says `ready` on its console, and runs the
   command. What that prints comes through ports of its own, or lies on two more disks, whence it
   is copied each second.
4. The guest writes the outputs as an archive to a second, empty disk, and ends.
5. Once its program is dead, the archive is unpacked over the staged tree, whence outputs are
   collected.

What a guest says decides over its own action's result and nothing else. It has no device but a
clock, a console, its disks and ports to write to; the GPUs that are leased to its action
(executor.isospin.passthrough); and, where a network is granted, one that leads to the witness
alone: QEMU then runs in a network namespace with nothing but the witness's sockets
(executor.netns), and connects to those what the guest connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import os
import resource
import secrets
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cas.store import BlobStore
from executor import netns
from executor.coeffects import SandboxKind
from executor.concurrency import settle
from executor.errors import InvalidInput, InvalidOutput, SandboxUnavailable, WorkerFailure
from executor.evidence import Evidence
from executor.grants import Grants
from executor.local import LocalExecutor
from executor.microvm.console import WORDS_CHARS, Console, Heard
from executor.microvm.driver import LOCKED_BESIDE_BYTES, lock_complaint
from executor.microvm.job import GuestJob, pack_job
from executor.microvm.machine import WORKSPACE, Accel, Disk, Guest, MicrovmOptions
from executor.microvm.made_of import MadeOf
from executor.microvm.means import (
    boot_probe,
    enclosure,
    find_means,
    guest_command,
    write_guest,
)
from executor.microvm.printed import Printed
from executor.microvm.unpack import Unpacker, outermost
from executor.options import ExecutorOptions
from executor.outputs import requests_of
from executor.paths import BUILD_ROOT
from executor.pidfd import PidWatch
from executor.ports import Network, NetworkSession, TreeCodec
from executor.preparing import asks_for_rootfs
from executor.process import Ending, Job, Process, command_line_too_long, start_failure
from executor.rlimits import apply_limits
from executor.space import Space
from executor.spec import PassedDevice, Work
from executor.staging import Layout

_log = logging.getLogger(__name__)

_OVERHEAD_BYTES = 512 << 20
"""Of the program that runs a guest, beside that guest's memory: translated code, disk images in the
page cache.
"""
_GATE = 'read -r _; exec "$@" </dev/null'
_WORD_BYTES = 128 << 10
"""Linux's limit for an argument or a variable, with the NUL behind it (MAX_ARG_STRLEN)."""
_STREAMS = ("stdout", "stderr")
_OUTPUTS = "outputs: "
"""What a guest's complaint about its action's outputs begins with (init.sh)."""


class MicrovmExecutor(LocalExecutor):
    """Runs each action in a virtual machine that is made for it and ends with it."""

    start_timeout_s = 120.0

    def __init__(
        self,
        store: BlobStore,
        codec: TreeCodec,
        options: ExecutorOptions,
        clock: Callable[[], float],
        machine: MicrovmOptions,
        *,
        network: Network | None = None,
        space: Space | None = None,
    ) -> None:
        """Finds what guests take; boots none yet. `options.scratch` must be this one's alone.
        Without a `network`, actions that declare one are refused.

        Raises SandboxUnavailable, saying what is missing and how to mend it.
        """
        self._machine = machine
        self._network = network
        self._means = find_means(machine, options.bubblewrap)
        memory_bytes = machine.memory_bytes + _OVERHEAD_BYTES
        options = replace(options, memory_bytes=memory_bytes, cpus=None)
        super().__init__(store, codec, options, clock, space=space)
        self._accel: Accel | None = None
        self._choosing = asyncio.Lock()
        self._tokens: dict[str, str] = {}
        """By the input root of an action: what its guest's words begin with."""
        self._files = MadeOf(
            {
                "kernel": self._means.kernel.image,
                self._means.machine.kind.value: Path(self._means.machine.program),
            }
            | ({"toolchain": machine.toolchain_image} if machine.toolchain_image else {})
        )

    def suits(self, work: Work) -> bool:
        """Tells whether a guest can give an action all that it declares."""
        return not self._ungrantable(work) and not asks_for_rootfs(work)

    def _ungrantable(self, work: Work) -> str:
        """Answers what of an action's declaration no guest can be given; empty when all can."""
        coeffects = work.coeffects
        if complaint := self._means.machine.refusal(work):
            return complaint
        if (coeffects.network or coeffects.auth) and self._network is None:
            return (
                "has no network, since this daemon has no witness: the operator sets storage to"
                " disk, which keeps the record that a witness needs, and leaves witness.enabled on"
            )
        if coeffects.filesystem:
            return "shows no directory of the host: drop the grant, or use sandbox:namespace"
        if coeffects.gpu is not None:
            return self._no_gpu(work)
        if {"unixUID", "unixGID"} & {name for name, _ in work.platform}:
            return "has one user: drop unixUID and unixGID, or use sandbox:namespace"
        return ""

    def _no_gpu(self, work: Work) -> str:
        """Answers why no guest can be given GPUs, or those that were leased."""
        if not self._machine.gpu_modules:
            return (
                "passes no GPU through, since microvm.gpu_modules has no driver for guests: use"
                " sandbox:namespace"
            )
        if work.devices is not None and len(work.devices.passed) < len(work.devices.leased):
            return "is given no GPU that the host's driver holds: use sandbox:namespace"
        return lock_complaint(self._machine.memory_bytes)

    async def accel(self) -> Accel:
        """Answers what guests run on; the first time, by booting one.

        Raises SandboxUnavailable.
        """
        async with self._choosing:
            if self._accel is None:
                self._accel = await self._threads(self._choose_accel)
            return self._accel

    def _choose_accel(self) -> Accel:
        wanted = self._machine.accel
        if wanted is not Accel.TCG:
            complaint = self._try_kvm()
            if not complaint:
                return Accel.KVM
            if Accel.TCG not in self._means.machine.accels:
                raise SandboxUnavailable(f"sandbox:microvm has no guest here: {complaint}")
            if wanted is Accel.KVM:
                raise SandboxUnavailable(f"microvm.accel is kvm, but: {complaint}")
            _log.warning("microVMs run without KVM, and so slowly: %s", complaint)
        return Accel.TCG

    def _try_kvm(self) -> str:
        """Answers why no guest comes up with KVM; empty when one does."""
        place = self._scratch.make("probe")
        try:
            limit_s = self._machine.probe_s
            return boot_probe(self._means, self._machine, Accel.KVM, place, limit_s)[1]
        finally:
            self._scratch.discard(place)

    def _mount_point(self, scratch: Path) -> str:  # noqa: ARG002 (the same for all)
        return BUILD_ROOT

    async def _equip(self, job: Job, layout: Layout) -> Job:
        del layout
        work = job.work
        complaint = self._ungrantable(work)
        if complaint:
            raise SandboxUnavailable(f"sandbox:microvm {complaint}")
        if job.is_root and work.coeffects.network:
            raise InvalidInput(
                "an action whose input root is the filesystem root can be given no network"
            )
        _check_words(job)
        await self.accel()
        await self._threads(self._files.look)
        if work.coeffects.network:
            assert self._network is not None
            session = await self._network.open(work)
            environment = dict(session.environment) | dict(job.environment)
            grants = Grants(session=session)
            job = replace(job, environment=tuple(environment.items()), grants=grants)
        try:
            if job.grants.session is not None and job.grants.session.redirect:
                raise InvalidInput(
                    "sandbox:microvm catches no connections: leave out network-mode=transparent,"
                    " so that clients are told of the witness, or use sandbox:namespace"
                )
            self._tokens[job.root] = secrets.token_hex(16)
            await self._threads(self._make_disks, job, _workspace(job))
        except BaseException:
            self._tokens.pop(job.root, None)
            if job.grants.session is not None:
                await job.grants.session.close()
            raise
        return job

    async def _let_go(self, job: Job) -> None:
        self._tokens.pop(job.root, None)

    def _make_disks(self, job: Job, workspace: Path) -> None:
        workspace.mkdir(mode=0o700)
        means, guest = self._means, self._guest(job)
        driver = [means.driver.data] if guest.passed and means.driver is not None else []
        told = pack_job(self._guest_job(job, guest))
        write_guest(means, guest, workspace, [means.initramfs.data, *driver, told])
        for disk in guest.disks:
            if not disk.read_only:
                with _image(workspace, disk.name).open("wb") as image:
                    os.truncate(image.fileno(), self._machine.disk_bytes)
        # The tree is owned by us; in the enclosure, and so in the image, by the action's user.
        user = (self._options.uid, self._options.gid)
        owner = f"{user[0]}:{user[1]}"
        command = [
            *enclosure(self._means, str(workspace), user=user),
            *("--ro-bind", job.root, "/input"),
            *("--", self._means.mke2fs, "-q", "-F", "-t", "ext4", "-m", "0"),
            # Nobody reads the image again after a crash.
            *("-O", "^has_journal", "-E", f"lazy_itable_init=1,nodiscard,root_owner={owner}"),
            *("-d", "/input", f"{WORKSPACE}/input.img"),
        ]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env={}, check=False
        )
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()[-WORDS_CHARS:]
            if "allocate" in words:
                raise InvalidInput(
                    "the input tree does not fit the disk of a guest, which has"
                    f" {self._machine.disk_bytes >> 20} MiB (microvm.disk_bytes)"
                )
            raise WorkerFailure(f"making the input disk of {job.work.name}: {words}")

    def _guest(self, job: Job) -> Guest:
        assert self._accel is not None
        means = self._means
        names = ("input", "outputs") if means.machine.has_ports else ("input", "outputs", *_STREAMS)
        disks = [Disk(name, f"{WORKSPACE}/{name}.img") for name in names]
        if means.toolchain_image is not None:
            disks.append(Disk("toolchain", str(means.toolchain_image), read_only=True))
        return Guest(
            self._accel,
            str(means.kernel.image),
            self._machine.memory_bytes,
            self._machine.cpus,
            disks=tuple(disks),
            has_network=job.grants.session is not None,
            passed=_passed(job),
        )

    def _guest_job(self, job: Job, guest: Guest) -> GuestJob:
        options = self._options
        top = "" if job.is_root else BUILD_ROOT
        cwd = "/".join((top, *job.cwd)) or "/"
        environment = {"PWD": cwd} | dict(job.environment)
        return GuestJob(
            arguments=job.work.arguments,
            environment=tuple(environment.items()),
            cwd=cwd,
            token=self._tokens[job.root],
            disks=() if self._means.machine.has_ports else tuple(one.name for one in guest.disks),
            outputs=tuple(_outputs(job)),
            is_root=job.is_root,
            mounted_at=BUILD_ROOT,
            uid=options.uid,
            gid=options.gid,
            hostname=options.hostname,
            etc=_etc_files(options),
            tmp_bytes=options.tmp_bytes,
            open_files=options.open_files,
            ports=() if job.grants.session is None else job.grants.session.ports,
            files=() if job.grants.session is None else tuple(job.grants.session.files.items()),
            devices=guest.passed,
        )

    def _launch(self, job: Job, stdout_fd: int, stderr_fd: int) -> Process:
        workspace = _workspace(job)
        outputs = _outputs(job)
        mounted_at = "/" if job.is_root else BUILD_ROOT
        unpacker = Unpacker(job.root, outputs, mounted_at)
        command = functools.partial(guest_command, self._means, self._guest(job), str(workspace))
        # One byte over the limit tells that there is more.
        limit_bytes = self._options.output_limit_bytes + 1
        return _Running(
            job,
            command,
            Console(self._tokens[job.root]),
            streams=dict(zip(_STREAMS, (stdout_fd, stderr_fd), strict=True)),
            copied=None if self._means.machine.has_ports else limit_bytes,
            confine=functools.partial(self._threads, functools.partial(_confine, job)),
            limits=self._rlimits() | self._locked(job),
            fetch=functools.partial(
                self._threads,
                unpacker.unpack,
                _image(workspace, "outputs"),
                workspace / "trash",
            )
            if outputs
            else None,
        )

    def _locked(self, job: Job) -> dict[int, int]:
        """A device reads and writes the guest's memory, which must stay where it is."""
        if not _passed(job):
            return {}
        return {resource.RLIMIT_MEMLOCK: self._machine.memory_bytes + LOCKED_BESIDE_BYTES}

    async def _evidence(self, job: Job) -> Evidence | None:
        if not await self._threads(self._files.is_as_seen):
            _log.warning("a file that guests are made of was replaced while %s ran", job.work.name)
            return None
        profile = json.dumps(self._profile(job), sort_keys=True, indent=1).encode()
        digest = job.work.digest_function.digest(profile)
        await self._store.put([digest], profile)
        return Evidence(SandboxKind.MICROVM, profile=digest)

    def _profile(self, job: Job) -> Mapping[str, object]:
        """Answers all that decides what a guest can do and see."""
        session, means, guest = job.grants.session, self._means, self._guest(job)
        document = means.machine.document(guest)
        return {
            "sandbox": "microvm",
            "command": guest_command(means, guest, "WORKSPACE"),
            **({"document": document} if document else {}),
            "files": {
                **self._files.hashes,
                "initramfs": means.initramfs.hash,
                **({"driver": means.driver.hash} if guest.passed and means.driver else {}),
            },
            "devices": [dataclasses.asdict(one) for one in guest.passed],
            "root": "inputs" if job.is_root else "toolchain",
            "user": [self._options.uid, self._options.gid],
            "network": "none" if session is None else {"ports": list(session.ports)},
        }

    def sandbox(self, *, is_root: bool = False) -> Mapping[str, str]:
        """Answers the sandbox really applied to actions, as short facts."""
        return {
            "sandbox": "microvm",
            "launcher": self._means.machine.kind.value,
            "accel": "not tried yet" if self._accel is None else self._accel.value,
            "network": "none",
            "root": "inputs" if is_root else "toolchain",
            "limits": self._describe_limits(),
        }


def _etc_files(options: ExecutorOptions) -> tuple[tuple[str, str], ...]:
    """Answers the files that say who and where a command is."""
    user = f"build:x:{options.uid}:{options.gid}:build:/tmp:/bin/sh\n" if options.uid else ""
    group = f"build:x:{options.gid}:\n" if options.gid else ""
    return (
        ("passwd", f"root:x:0:0:root:/root:/bin/sh\n{user}"),
        ("group", f"root:x:0:\n{group}"),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    )


def _check_words(job: Job) -> None:
    """Raises InvalidInput for what the guest's kernel would not start."""
    words = (*job.work.arguments, *(f"{name}={value}" for name, value in job.environment))
    if any(len(os.fsencode(word)) >= _WORD_BYTES for word in words):
        raise command_line_too_long(job.work.arguments)


def _outputs(job: Job) -> list[tuple[str, ...]]:
    """Answers the places that a guest is to hand over, each once."""
    return outermost([parts for parts, _ in requests_of(job.work)])


def _passed(job: Job) -> tuple[PassedDevice, ...]:
    """Answers the devices that an action's guest gets."""
    return () if job.work.devices is None else job.work.devices.passed


def _workspace(job: Job) -> Path:
    """Where an action's disks lie: in its scratch space, beside the input root."""
    return Path(job.root).parent / "guest"


def _image(workspace: Path, disk: str) -> Path:
    """Where a disk of a guest's own is a file."""
    return workspace / f"{disk}.img"


def _confine(job: Job, pid: int, limits: Mapping[int, int]) -> None:
    if job.group is not None:
        job.group.join(pid)
    apply_limits(pid, limits)


class _Running:
    """A guest whose program runs, and the bubblewrap around that."""

    def __init__(
        self,
        job: Job,
        command: Callable[..., list[str]],
        console: Console,
        *,
        streams: Mapping[str, int],
        copied: int | None,
        confine: Callable[[int, Mapping[int, int]], Awaitable[None]],
        limits: Mapping[int, int],
        fetch: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """Starts a shell that waits for release. `streams` are the guest's ports, unless so many
        bytes of them are to be `copied` from its disks. `fetch` gets the outputs from the dead
        guest.

        Raises InvalidInput, WorkerFailure.
        """
        self._job, self._confine, self._limits, self._fetch = job, confine, limits, fetch
        self._session = job.grants.session
        self._loop = asyncio.get_running_loop()
        self._console = console
        self._heard = Heard()
        self._news: asyncio.Future[None] = self._loop.create_future()
        """Done when the guest is ready, or will never be."""
        self._silent: asyncio.Future[None] = self._loop.create_future()
        """Done when its program is gone: that alone holds the other end."""
        self._failure: BaseException | None = None
        self._is_killed = False
        self._printed: list[Printed] = []
        ports = streams if copied is None else {}
        self._read_end, console_end = os.pipe()
        gate, self._gate = os.pipe()
        self._channel, channel = socket.socketpair()
        try:
            if copied is not None:
                workspace = _workspace(job)
                for name, fd in streams.items():
                    self._printed.append(Printed(_image(workspace, name), fd, copied))
            self._process = subprocess.Popen(
                [
                    *_enclosing(self._session, channel),
                    *("/bin/sh", "-c", _GATE, "armitage", *command(tuple(ports.items()))),
                ],
                env={},
                cwd="/",
                stdin=gate,
                stdout=console_end,
                stderr=console_end,
                pass_fds=(*ports.values(), channel.fileno()),
                start_new_session=True,
            )
        except OSError as error:
            for one in self._printed:
                one.end()
            for fd in (self._read_end, self._gate):
                os.close(fd)
            self._channel.close()
            raise start_failure(error, job.work.arguments) from error
        finally:
            for fd in (console_end, gate):
                os.close(fd)
            channel.close()
        os.set_blocking(self._read_end, False)
        self._loop.add_reader(self._read_end, self._read_console)
        self._watch = PidWatch(os.pidfd_open(self._process.pid), is_child=True)
        self.ended = self._watch.ended

    def _read_console(self) -> None:
        try:
            data = os.read(self._read_end, 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._read_end)
            os.close(self._read_end)
            self._silent.set_result(None)
        for line in self._console.take(data):
            self._heard.take(line)
        for one, length in zip(self._printed, self._heard.printed, strict=False):
            one.reach(length)
        if (self._heard.is_ready or self._silent.done()) and not self._news.done():
            self._news.set_result(None)

    async def release(self) -> None:
        """Puts the limits on, lets the guest boot, and waits until it starts the command."""
        await self._confine(self._process.pid, self._limits)
        if self._session is not None:
            await self._session.serve(await asyncio.to_thread(netns.receive, self._channel))
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b"\n")
        self._close_gate()
        # Not awaited itself: whoever gives up waiting must not cancel it.
        await asyncio.wait([self._news])
        if not self._heard.is_ready:
            raise WorkerFailure(f"no guest came up for {self._job.work.name}: {self._why()}")

    def _close_gate(self) -> None:
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    async def kill(self) -> None:
        """Kills the program if it still runs. Gets what a guest that ended by itself has left."""
        self._is_killed = not self.ended.done()
        try:
            if self._is_killed and self._job.group is not None:
                await asyncio.to_thread(self._job.group.kill)
        finally:
            self._watch.kill()
            try:
                await settle(self.ended, self._silent)
                await self._copy_rest()
            finally:
                self._close_gate()
                self._channel.close()
                self._process.wait()
        if self._heard.is_done and not self._is_killed and self._fetch is not None:
            try:
                await self._fetch()
            except Exception as error:  # noqa: BLE001 (ending, which comes next, raises it)
                self._failure = error

    async def _copy_rest(self) -> None:
        for one in self._printed:
            one.end()
        await settle(*(one.ended for one in self._printed))
        failures = (one.ended.exception() for one in self._printed)
        self._failure = next((one for one in failures if one is not None), None)

    def ending(self, printed: str) -> Ending:
        """Says how the command ended. Raises WorkerFailure when no guest has said so."""
        del printed
        if self._failure is not None:
            raise self._failure
        heard = self._heard
        if heard.failure.startswith(_OUTPUTS):
            raise InvalidOutput(f"the guest cannot hand over its {heard.failure}")
        if heard.failure or heard.exit_code is None or not heard.is_done:
            raise WorkerFailure(f"the guest of {self._job.work.name} failed: {self._why()}")
        return Ending(heard.exit_code, "the guest ran out of memory" if heard.out_of_memory else "")

    def _why(self) -> str:
        return self._heard.failure or self._console.last or "it ended without a word"


def _enclosing(session: NetworkSession | None, channel: socket.socket) -> list[str]:
    """Answers the words before a command whose network is a session's sockets alone."""
    if session is None:
        return []
    return netns.command(channel, netns.Inside(tuple(session.ports)))
