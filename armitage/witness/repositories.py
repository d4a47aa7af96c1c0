"""One commit of a git repository as a tree, fetched by git through a witness.

git runs in a network namespace of its own (armitage.witness.enclosure), without anybody's
configuration. What it fetched is read object by object: nothing is checked out, so no attribute,
filter or hook of the repository has a say.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Mapping
from pathlib import Path

from armitage.errors import Aborted, Unavailable
from armitage.witness.enclosure import enclose
from armitage.witness.network import WitnessSession
from armitage.witness.unpacking import BadArchive, Unpacking
from executor.errors import SandboxUnavailable
from executor.netns import Inside

_SAID_BYTES = 2000
_SETTINGS = (
    *("-c", "protocol.version=2", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"),
    *("-c", "fetch.fsckObjects=true", "-c", "http.followRedirects=true"),
    *("-c", "credential.helper=", "-c", "core.askPass=true"),
)


async def fetch_commit(
    session: WitnessSession, url: str, ref: str, directory: Path
) -> tuple[Path, str]:
    """Fetches a commit (by its id, or the tip of a branch) into a new repository in an empty
    directory, and answers where that is, and the commit's id.

    The session must have been opened for this directory, and is served here; whoever opened it
    closes it. Raises Unavailable, Aborted.
    """
    repository = directory / "git"
    environment = {**_clean(directory), **session.environment}
    for path, content in session.files.items():
        await asyncio.to_thread(Path(path).write_bytes, content)
    await _run(repository.parent, environment, "init", "-q", "--bare", str(repository))
    command = ["git", *_SETTINGS, "fetch", "-q", "--depth=1", "--no-tags", "--", url, ref]
    said = directory / "said"
    with said.open("wb") as out:
        try:
            inside = Inside(session.ports)
            enclosed = await enclose(
                command, environment, inside, str(repository), stdout=out.fileno()
            )
        except SandboxUnavailable as error:
            raise Unavailable(f"git cannot be run here: {error}") from error
        await session.serve(enclosed.sockets)
        try:
            code = await enclosed.process.wait()
        except BaseException:
            enclosed.process.kill()
            raise
    if code:
        words = said.read_bytes()[-_SAID_BYTES:].decode("utf-8", "replace").strip()
        raise Unavailable(f"git cannot fetch {ref}: {words}")
    tip = (await _run(repository, environment, "rev-parse", "FETCH_HEAD^{commit}")).decode().strip()
    if len(ref) in {40, 64} and tip != ref:
        raise Aborted(f"git fetched {tip}, and {ref} was asked for")
    return repository, tip


async def read_commit(repository: Path, commit: str, into: Unpacking) -> None:
    """Reads a commit's tree. Raises BadArchive, Unavailable."""
    environment = _clean(repository.parent)
    listed = await _run(repository, environment, "ls-tree", "-r", "-t", "-z", "--full-tree", commit)
    files = await asyncio.to_thread(_lay_out, listed, into)
    process = await asyncio.create_subprocess_exec(
        *("git", "cat-file", "--batch"),
        cwd=repository,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for mode, name, path in files:
            process.stdin.write(name.encode() + b"\n")
            await process.stdin.drain()
            head = (await process.stdout.readline()).split()
            if len(head) != 3 or head[1] != b"blob":
                raise BadArchive(f"{path!r} is not in what was fetched")
            into.check_room(int(head[2]))
            content = await process.stdout.readexactly(int(head[2]))
            await process.stdout.readexactly(1)
            if mode == "120000":
                into.add_link(path, content.decode("utf-8", "surrogateescape"))
            else:
                await asyncio.to_thread(
                    into.add_file, path, io.BytesIO(content), is_executable=mode == "100755"
                )
    except asyncio.IncompleteReadError as error:
        raise BadArchive("git ended in the middle of what was fetched") from error
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _lay_out(listed: bytes, into: Unpacking) -> list[tuple[str, str, str]]:
    """Makes the directories; answers mode, object and path of what else there is. A submodule is
    an empty directory, as after a clone.
    """
    files = []
    for line in filter(None, listed.split(b"\0")):
        head, _, raw = line.partition(b"\t")
        mode, kind, name = head.decode().split()
        path = raw.decode("utf-8", "surrogateescape")
        if kind == "blob":
            files.append((mode, name, path))
        else:
            into.add_directory(path)
    return files


async def _run(directory: Path, environment: Mapping[str, str], *arguments: str) -> bytes:
    """Runs git on what is here already."""
    process = await asyncio.create_subprocess_exec(
        *("git", *_SETTINGS, *arguments),
        cwd=directory,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await process.communicate()
    if process.returncode:
        raise Unavailable(f"git {arguments[0]}: {said.decode('utf-8', 'replace').strip()[:500]}")
    return out


def _clean(home: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https",
    }
