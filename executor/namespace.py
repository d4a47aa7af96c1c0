"""Actions in namespaces of their own, by our own launcher or bubblewrap.

A command sees, and nothing else:

- `/build`: its input root, writable, private to it; or that as `/` (see FilesystemRoot);
- the toolchain (`ExecutorOptions.toolchain`), read-only;
- `/etc` with just passwd, group, hosts and nsswitch.conf of our making;
- `/tmp` and `/dev/shm` of its own, in memory, gone afterwards; a minimal `/dev`; a `/proc` of its
  own processes;
- in the toolchain's place, with its `/etc`, a root filesystem that it names (executor.rootfs);
- what it declares of the host's files and may have, and the devices that are leased to it.

It has user, mount, pid, ipc, uts, network and cgroup namespaces of its own, so no network at all
but a loopback interface that it shares with nobody, and no abstract sockets. It has no
capabilities, cannot gain any (no_new_privs, nosuid mounts, no nested user namespaces), and is in a
session without a terminal. Our own launcher also filters its system calls and lets Landlock rule
what it changes (docs/sandbox.md).

An action that declares a network gets sockets in that namespace on which a witness answers
(executor.ports.Network): it has no other way out.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cas.digest import Digest, DigestFunction
from cas.errors import CasError
from cas.store import BlobStore
from executor.bubblewrap import Bubblewrap
from executor.coeffects import SandboxKind
from executor.errors import InvalidInput, SandboxUnavailable
from executor.evidence import Evidence, Opened
from executor.grants import NOTHING, Grants, Mount, RootView, device_mounts, filesystem_mounts
from executor.input_overlay import InputOverlays, Overlay
from executor.launcher.binary import find_launcher
from executor.launcher.overlay import try_overlay
from executor.launcher.own import OwnLauncher, trial_job
from executor.launcher.profile import canonical
from executor.launching import Confinement, Launcher
from executor.local import LocalExecutor
from executor.options import ExecutorOptions, LauncherKind
from executor.paths import BUILD_ROOT
from executor.ports import Network, NetworkSession, TreeCodec
from executor.preparing import MOUNTED_IN_ROOT
from executor.probe import explain, find_bubblewrap, probe
from executor.process import Job, Process
from executor.rootfs import host_root, read_roots, rootfs_of, view_root
from executor.space import Space
from executor.spec import Work
from executor.staging import Layout
from executor.toolchain import Toolchain, read_toolchain
from executor.tree_cache import TreeBudget, TreeCache

_log = logging.getLogger(__name__)


class NamespaceExecutor(LocalExecutor):
    """Runs actions in sandboxes."""

    gives_rootfs = True

    def __init__(
        self,
        store: BlobStore,
        codec: TreeCodec,
        options: ExecutorOptions,
        clock: Callable[[], float],
        network: Network | None = None,
        *,
        space: Space | None = None,
    ) -> None:
        """Tries a sandbox with all that actions will get. Blocks for some 50 ms.

        Without a `network`, actions that declare one are refused. Raises SandboxUnavailable, saying
        what is missing and how to mend it.
        """
        if options.launcher is LauncherKind.ARMITAGE:
            find_launcher()
        elif options.launcher is LauncherKind.BUBBLEWRAP:
            find_bubblewrap(options.bubblewrap)
        super().__init__(store, codec, options, clock, space=space)
        self._network = network
        budget = TreeBudget(options.rootfs_bytes, max_trees=options.rootfs_trees)
        self._root_trees = self._cache("rootfs", budget, waits=True)
        self._plain_profiles: dict[tuple[DigestFunction, bool], tuple[Digest, bytes]] = {}
        self.fallback = ""
        """Why bubblewrap is used although our own launcher is preferred; empty otherwise."""
        budget = TreeBudget(options.tree_cache.max_bytes, options.tree_cache.max_entries)
        self._input_trees = self._cache("inputs", budget)
        self._overlays: InputOverlays | None = None
        self.no_overlay = ""
        """Why every input tree is copied; empty where large ones are shown as overlays."""
        try:
            self._launcher = self._open_launcher()
        except BaseException:
            self._threads.close()
            self._cgroups.close()
            self._scratch.close()
            raise

    def _open_launcher(self) -> Launcher:
        options, directory = self._options, self._scratch.directory
        toolchain = self._toolchain = read_toolchain(options, directory)
        self._host_roots = read_roots(options, directory)
        if options.launcher is not LauncherKind.BUBBLEWRAP:
            try:
                return self._open_own(toolchain)
            except SandboxUnavailable as error:
                if options.launcher is LauncherKind.ARMITAGE:
                    raise SandboxUnavailable(explain(str(error), probe())) from error
                self.fallback = str(error)
        try:
            return Bubblewrap(toolchain, options, directory, self._threads)
        except SandboxUnavailable as error:
            if not self.fallback:
                raise
            raise SandboxUnavailable(f"{self.fallback}; and bubblewrap: {error}") from error

    def _open_own(self, toolchain: Toolchain) -> OwnLauncher:
        launcher = OwnLauncher(find_launcher(), toolchain, self._options)
        try:
            root = self._scratch.directory / "trial"
            root.mkdir(exist_ok=True)
            confinement = self._confinement(self._user())
            launcher.try_out(trial_job(str(root)), confinement)
            self._open_trees(launcher, confinement)
        except BaseException:
            launcher.close()
            raise
        return launcher

    def _open_trees(self, launcher: OwnLauncher, confinement: Confinement) -> None:
        options = self._options.tree_cache
        if not options.enabled:
            self.no_overlay = "it is configured so"
            return
        self.no_overlay = try_overlay(launcher, self._scratch, confinement)
        if not self.no_overlay:
            self._overlays = InputOverlays(self._inputs, self._input_trees, options.from_entries)

    def _cache(self, name: str, budget: TreeBudget, *, waits: bool = False) -> TreeCache:
        parts = self._store, self._inputs, self._scratch, budget, self._threads
        return TreeCache(*parts, name=name, waits=waits)

    async def close(self) -> None:
        """Frees everything; see LocalExecutor."""
        self._launcher.close()
        await self._save_room()
        await super().close()

    @property
    def offers_network(self) -> bool:
        """Whether actions that declare a network can have one."""
        return self._network is not None and self._launcher.name == OwnLauncher.name

    def _mount_point(self, scratch: Path) -> str:  # noqa: ARG002 (the same for all)
        return BUILD_ROOT

    async def _stage(self, work: Work, root: str) -> tuple[Layout, Overlay | None]:
        """Lends the tree where it can be, else lays it out; see LocalExecutor."""
        if self._overlays is None:
            return await super()._stage(work, root)
        tree = await self._inputs.read(work)
        if tree.entries >= self._options.tree_cache.from_entries:
            return Layout(), await self._overlays.show(tree, root)
        layout = await self._inputs.expand(tree)
        await self._inputs.lay_out(layout, root)
        return layout, None

    async def _save_room(self) -> None:
        """Removes trees that are only kept; see LocalExecutor."""
        for trees in (self._input_trees, self._root_trees):
            await trees.clear()

    async def tidy(self) -> None:
        """Removes trees that are only kept and of which the store has lost a part. To be called now
        and then. Logs what fails.
        """
        for trees in (self._input_trees, self._root_trees):
            try:
                await trees.drop_lost()
            except (CasError, OSError) as error:
                _log.warning("removing trees that the store has lost a part of: %s", error)

    async def _equip(self, job: Job, layout: Layout) -> Job:
        """Adds what the action declares and may have; see LocalExecutor."""
        del layout
        work, declared = job.work, job.work.coeffects
        asked = rootfs_of(work)
        if job.is_root and asked is not None:
            raise InvalidInput(
                "the platform names a root filesystem (rootfs), but the input root is to be it:"
                " leave out one of the two (chroot-input-root, unixUID)"
            )
        if job.is_root and (declared.filesystem or declared.network or work.devices):
            raise InvalidInput(
                "an action whose input root is the filesystem root can be given neither files nor"
                " devices of the host, nor a network"
            )
        private = (self._scratch.directory, *self._options.private)
        mounts = filesystem_mounts(declared.filesystem, self._options.filesystem_allow, private)
        mounts += device_mounts(work.devices, self._toolchain.shown if asked is None else ())
        session, environment = None, job.environment
        if declared.network or declared.auth:
            session = await self._open_session(work)
        try:
            if session is not None:
                place = Path(job.root).with_name("network")
                mounts += tuple(await self._threads(_write_files, place, session.files))
                environment = tuple((dict(session.environment) | dict(environment)).items())
            root = None if asked is None else await self._take_root(asked, work, mounts)
            made = _missing_mount_points(job) if job.is_root else ()
        except BaseException:
            if session is not None:
                await session.close()
            raise
        grants = Grants(mounts, session, root)
        return replace(job, environment=environment, grants=grants, made=made)

    async def _take_root(
        self, asked: Digest | str, work: Work, mounts: Sequence[Mount]
    ) -> RootView:
        """Answers a root filesystem as the action is to see it; _let_go gives it back."""
        places = [mount.target for mount in mounts]
        if not isinstance(asked, Digest):
            path = host_root(self._host_roots, asked)
            return await self._threads(view_root, path, f"{asked} ({path})", None, places)
        of_root = replace(work, input_root=asked, digest_function=asked.function)
        tree = await self._root_trees.take(asked, partial(self._inputs.plan, of_root))
        if tree is None:
            raise SandboxUnavailable(
                f"the root filesystem {asked} has more bytes of files than this worker keeps:"
                f" executor.rootfs_bytes = {self._options.rootfs_bytes}"
            )
        try:
            return await self._threads(view_root, tree.root, f"cas:{asked}", tree, places)
        except BaseException:
            self._root_trees.give_back(tree)
            raise

    async def _let_go(self, job: Job) -> None:
        """Gives the root filesystem back; see LocalExecutor."""
        if job.grants.root is not None and job.grants.root.tree is not None:
            self._root_trees.give_back(job.grants.root.tree)

    def _applied(self, job: Job) -> Mapping[str, str]:
        return {**super()._applied(job), **_root_fact(job), **_inputs(job)}

    async def _open_session(self, work: Work) -> NetworkSession:
        if self._network is None:
            raise SandboxUnavailable(
                "the action declares a network, but this daemon has no witness, and an action has"
                " no other way to one; the operator sets storage to disk, which keeps the record"
                " that a witness needs, and leaves witness.enabled on"
            )
        if self._launcher.name != OwnLauncher.name:
            raise SandboxUnavailable(
                "the action declares a network, which takes armitage's own launcher, and this"
                f" worker uses {self._launcher.name}: {self.fallback or 'it is configured so'}"
            )
        return await self._network.open(work)

    def _launch(self, job: Job, stdout_fd: int, stderr_fd: int) -> Process:
        identity = _identity(job.work, self._options) if job.is_root else self._user()
        confinement = self._confinement(identity)
        return self._launcher.launch(job, confinement, (stdout_fd, stderr_fd))

    def _user(self) -> tuple[int, int]:
        return self._options.uid, self._options.gid

    def _confinement(self, identity: tuple[int, int]) -> Confinement:
        return Confinement(self._rlimits(), *identity)

    def sandbox(self, *, is_root: bool = False) -> Mapping[str, str]:
        """Answers the sandbox really applied to actions, as short facts."""
        return {
            "sandbox": "namespaces",
            **self._launcher.facts(),
            "network": "none",
            "root": "inputs" if is_root else "toolchain",
            "inputs": "copy" if self._overlays is None else "overlay",
            "limits": self._describe_limits(),
        }

    async def _evidence(self, job: Job) -> Evidence:
        work = job.work
        return Evidence(
            SandboxKind.NAMESPACE,
            await self._keep_profile(job, work.digest_function),
            opened=tuple(Opened(one.path, one.writable) for one in work.coeffects.filesystem),
            gpus=work.devices.leased if work.devices else (),
        )

    async def _keep_profile(self, job: Job, function: DigestFunction) -> Digest:
        is_plain = job.grants == NOTHING and not job.is_root
        kind = function, job.overlay is not None
        profile = self._plain_profiles.get(kind) if is_plain else None
        if profile is None:
            data = canonical(self._profile(job))
            profile = function.digest(data), data
            if is_plain:
                self._plain_profiles[kind] = profile
        digest, data = profile
        if await self._store.find_missing([digest]):
            await self._store.put([digest], data)
        return digest

    def _profile(self, job: Job) -> Mapping[str, object]:
        limits, grouped = self._limits(), self._cgroups.controllers
        identity = _identity(job.work, self._options) if job.is_root else self._user()
        return {
            "facts": {**self.sandbox(is_root=job.is_root), **_root_fact(job), **_inputs(job)},
            "launcher": dict(self._launcher.profile(job)),
            "granted": [[mount.target, mount.kind] for mount in job.grants.mounts],
            "limits": {
                "memory_bytes": limits.memory_bytes if "memory" in grouped else None,
                "processes": limits.processes if "pids" in grouped else None,
                "cpus": str(limits.cpus) if limits.cpus is not None and "cpu" in grouped else None,
                "rlimits": {str(key): value for key, value in self._rlimits().items()},
            },
            "user": list(identity),
            "network": _describe(job.grants.session),
        }


def _root_fact(job: Job) -> Mapping[str, str]:
    root = job.grants.root
    return {} if root is None else {"root": f"rootfs={root.name}"}


def _inputs(job: Job) -> Mapping[str, str]:
    return {"inputs": "copy" if job.overlay is None else "overlay"}


def _describe(session: NetworkSession | None) -> Mapping[str, object] | None:
    if session is None:
        return None
    return {
        "ports": list(session.ports),
        "redirect": session.redirect,
        "resolver": session.resolver,
    }


def _write_files(directory: Path, files: Mapping[str, bytes]) -> list[Mount]:
    """Writes files that an action is to see at paths of its own."""
    directory.mkdir()
    mounts = []
    for number, (path, data) in enumerate(files.items()):
        source = directory / str(number)
        source.write_bytes(data)
        mounts.append(Mount(str(source), path))
    return mounts


def _identity(work: Work, options: ExecutorOptions) -> tuple[int, int]:
    """Answers the user and group that a platform asks for (BuildStream's unixUID, unixGID)."""
    platform = dict(work.platform)
    found = []
    for name, default in (("unixUID", options.uid), ("unixGID", options.gid)):
        value = platform.get(name, str(default))
        if not (value.isascii() and value.isdigit() and int(value) < 2**32 - 1):
            raise InvalidInput(f"platform property {name} is {value[:40]!r}, not a number")
        found.append(int(value))
    return found[0], found[1]


def _missing_mount_points(job: Job) -> tuple[str, ...]:
    """Answers the places in an input root that the launcher will make directories at.

    A link there could lead the launcher out of the root. Raises InvalidInput.
    """
    layers = (job.root, *(job.overlay.lowers if job.overlay else ()))
    missing = []
    for name in MOUNTED_IN_ROOT:
        there = [path for layer in layers if os.path.lexists(path := f"{layer}/{name}")]
        if not there:
            missing.append(name)
        elif not all(stat.S_ISDIR(os.lstat(path).st_mode) for path in there):
            raise InvalidInput(
                f"the input root is to be the filesystem root, but its /{name} is no directory"
            )
    return tuple(missing)
