"""What tests of executors need: a JSON TreeCodec, a tree builder, a progress that remembers."""

import asyncio
import base64
import functools
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cas.digest import Digest, DigestFunction
from cas.store import BlobStore
from executor.coeffects import PURE, Coeffects
from executor.errors import InvalidInput, SandboxUnavailable
from executor.launcher.overlay import try_overlay_anywhere
from executor.launcher.own import try_launcher
from executor.ports import Executor
from executor.probe import probe
from executor.spec import (
    Devices,
    Directory,
    DirectoryNode,
    FileNode,
    Outcome,
    OutputRequest,
    SymlinkNode,
    Work,
)

SHA256 = DigestFunction.SHA256


@dataclass(frozen=True)
class Exe:
    """An executable file of a tree."""

    data: bytes


@dataclass(frozen=True)
class Link:
    """A symlink of a tree."""

    target: str


Tree = Mapping[str, "bytes | Exe | Link | Tree"]


class JsonCodec:
    """Directories as JSON; canonical, since keys and nodes are sorted."""

    def decode_directory(self, data: bytes, work: Work) -> Directory:
        try:
            fields = json.loads(data)
            return Directory(
                tuple(FileNode(n, self._digest(d, work), x) for n, d, x in fields["files"]),
                tuple(DirectoryNode(n, self._digest(d, work)) for n, d in fields["directories"]),
                tuple(SymlinkNode(n, t) for n, t in fields["symlinks"]),
            )
        except (ValueError, KeyError) as error:
            raise InvalidInput(f"malformed directory: {error}") from error

    @staticmethod
    def _digest(text: str, work: Work) -> Digest:
        hash_, _, size = text.partition("/")
        return Digest(work.digest_function, hash_, int(size))

    def encode_directory(self, directory: Directory) -> bytes:
        return json.dumps(
            {
                "files": sorted(
                    (n.name, f"{n.digest.hash}/{n.digest.size_bytes}", n.is_executable)
                    for n in directory.files
                ),
                "directories": sorted(
                    (n.name, f"{n.digest.hash}/{n.digest.size_bytes}")
                    for n in directory.directories
                ),
                "symlinks": sorted((n.name, n.target) for n in directory.symlinks),
            },
            sort_keys=True,
        ).encode()

    def encode_tree(self, root: bytes, children: Sequence[bytes]) -> bytes:
        return json.dumps([base64.b64encode(d).decode() for d in (root, *children)]).encode()

    def decode_tree(self, data: bytes) -> list[bytes]:
        """Root first, then children, as encoded."""
        return [base64.b64decode(text) for text in json.loads(data)]


@dataclass
class Seen:
    """A Progress that remembers what it heard."""

    started: int = 0
    is_started: asyncio.Event = field(default_factory=asyncio.Event)
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the first word on stdout."""

    def executing(self) -> None:
        self.started += 1
        self.is_started.set()

    def stdout(self, data: bytes) -> None:
        self.out += data
        self.heard.set()

    def stderr(self, data: bytes) -> None:
        self.err += data


async def put_tree(
    store: BlobStore, tree: Tree, function: DigestFunction = SHA256, *, leave_out: bytes = b"\xff"
) -> Digest:
    """Stores a tree (all but files that hold exactly `leave_out`) and answers its digest."""
    files, directories, symlinks = [], [], []
    for name, node in tree.items():
        if isinstance(node, Link):
            symlinks.append(SymlinkNode(name, node.target))
        elif isinstance(node, bytes | Exe):
            data = node.data if isinstance(node, Exe) else node
            digest = function.digest(data)
            if data != leave_out:
                await store.put([digest], data)
            files.append(FileNode(name, digest, isinstance(node, Exe)))
        else:
            below = await put_tree(store, node, function, leave_out=leave_out)
            directories.append(DirectoryNode(name, below))
    data = JsonCodec().encode_directory(
        Directory(tuple(files), tuple(directories), tuple(symlinks))
    )
    digest = function.digest(data)
    await store.put([digest], data)
    return digest


async def get_tree(store: BlobStore, root: Digest) -> Tree:
    """Reads a tree back from its Directory blobs."""
    work = Work("reading", root.function, root, ())
    directory = JsonCodec().decode_directory(await store.get(root), work)
    tree: dict[str, bytes | Exe | Link | Tree] = {}
    for file in directory.files:
        data = await store.get(file.digest)
        tree[file.name] = Exe(data) if file.is_executable else data
    for link in directory.symlinks:
        tree[link.name] = Link(link.target)
    for below in directory.directories:
        tree[below.name] = await get_tree(store, below.digest)
    return tree


class PlainStore:
    """A BlobStore without the bulk methods, over one that may have them."""

    def __init__(self, inner: BlobStore) -> None:
        self.find_missing = inner.find_missing
        self.get = inner.get
        self.read = inner.read
        self.put = inner.put
        self.open_writer = inner.open_writer


@dataclass
class Bench:
    """An executor with a store, and short ways to run actions on it."""

    executor: Executor
    store: BlobStore
    scratch: Path
    mounted_at: str | None
    """Where commands see the input root; None where that is the scratch space itself."""

    async def run(
        self,
        *arguments: str,
        tree: Tree | None = None,
        outputs: Sequence[str | OutputRequest] = (),
        environment: Mapping[str, str] | None = None,
        working_directory: str = "",
        timeout_s: float | None = None,
        platform: Mapping[str, str] | None = None,
        function: DigestFunction = SHA256,
        input_root: Digest | None = None,
        progress: Seen | None = None,
        coeffects: Coeffects = PURE,
        devices: Devices | None = None,
    ) -> Outcome:
        if input_root is None:
            input_root = await put_tree(self.store, tree or {}, function)
        work = Work(
            name=str(uuid.uuid4()),
            digest_function=function,
            input_root=input_root,
            arguments=arguments,
            environment=tuple((environment or {}).items()),
            working_directory=working_directory,
            outputs=tuple(OutputRequest(o) if isinstance(o, str) else o for o in outputs),
            platform=tuple((platform or {}).items()),
            timeout_s=timeout_s,
            coeffects=coeffects,
            devices=devices,
        )
        return await self.executor.execute(work, progress or Seen())

    async def sh(self, script: str, **more: Any) -> Outcome:
        return await self.run("sh", "-c", script, **more)

    async def text(self, outcome: Outcome) -> str:
        return (await self.store.get(outcome.stdout)).decode()

    async def errors(self, outcome: Outcome) -> str:
        return (await self.store.get(outcome.stderr)).decode()

    async def says(self, script: str, **more: Any) -> str:
        """What a script prints, which must succeed."""
        outcome = await self.sh(script, **more)
        assert outcome.exit_code == 0, await self.errors(outcome)
        return await self.text(outcome)

    def leftovers(self) -> list[str]:
        """Whatever actions left in scratch space, once the thread that removes is through."""
        until = time.monotonic() + 5
        places = [self.scratch / name for name in ("work", "trash", "grave")]
        while any(list(place.iterdir()) for place in places[1:]) and time.monotonic() < until:
            time.sleep(0.002)
        return [str(path) for place in places for path in place.iterdir()]


@functools.cache
def overlay_missing() -> str:
    """Why sandboxes show no input tree as an overlay on this host; empty when they do."""
    return try_overlay_anywhere()


@functools.cache
def launcher_missing() -> str:
    """Why our own launcher makes no sandbox on this host; empty when it does."""
    try:
        try_launcher()
    except SandboxUnavailable as error:
        return str(error)
    return ""


@functools.cache
def bubblewrap_missing() -> str:
    """Why bubblewrap makes no sandbox on this host; empty when it does."""
    report = probe(launcher=_none)
    return "" if report.can_sandbox else "; ".join(report.lines())


def _none() -> int:
    raise SandboxUnavailable("not asked for")


@functools.cache
def sandbox_missing() -> str:
    """Why this host cannot sandbox; empty when it can."""
    report = probe()
    return "" if report.can_sandbox else "; ".join(report.lines())
