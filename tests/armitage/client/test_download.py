import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.daemon import memory_config, running_daemon

from armitage.client.blobs import Source, upload
from armitage.client.channel import Channel
from armitage.client.download import (
    FileToWrite,
    LinkToWrite,
    Plan,
    plan_tree,
    split_path,
    write,
    write_file,
)
from armitage.client.errors import BlobMissing, InTheWay, UntrustworthyAnswer
from armitage.client.remote import Remote, connect
from armitage.client.trees import RemoteTree, build_tree, fetch_tree
from cas.digest import Digest, DigestFunction
from executor.spec import Directory, DirectoryNode

SHA256 = DigestFunction.SHA256
DATA = b"some data"
FILE = SHA256.digest(DATA)


@asynccontextmanager
async def server_with(blobs: dict[Digest, Source]) -> AsyncIterator[Remote]:
    config = memory_config()
    config = replace(config, worker=replace(config.worker, enabled=False))
    async with running_daemon(config) as daemon, Channel(daemon.addresses.grpc[0]) as channel:
        remote = await connect(channel)
        await upload(remote, blobs)
        yield remote


def file(*parts: str) -> Plan:
    return Plan(files=(FileToWrite(parts, FILE, is_executable=False),))


def link(target: str, *parts: str) -> Plan:
    return Plan(links=(LinkToWrite(parts, target),))


def contents(path: Path) -> bytes:
    return path.read_bytes()


async def test_a_tree_is_written_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "run").write_bytes(DATA)
    (source / "deep" / "run").chmod(0o755)
    (source / "big").write_bytes(os.urandom(5_000_000))
    (source / "none").touch()
    (source / "deep" / "up").symlink_to("../big")
    tree = build_tree(source, SHA256)

    async with server_with(tree.blobs) as remote:
        fetched = await fetch_tree(remote, tree.root)
        await write(remote, plan_tree(fetched), tmp_path / "out")

    assert build_tree(tmp_path / "out", SHA256).root == tree.root


@pytest.mark.parametrize(
    "path", ["", "/a", "a//b", "a/", ".", "..", "../a", "a/../b", "a/./b", "a\0b"]
)
def test_paths_that_leave_or_deceive_are_refused(path: str) -> None:
    with pytest.raises(UntrustworthyAnswer, match="not a path below the root"):
        split_path(path)


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("/etc/passwd", ("l",)),
        ("..", ("l",)),
        ("../x", ("l",)),
        ("../../x", ("d", "l")),
        ("d/../../x", ("l",)),
        ("a/..", ("l",)),
    ],
)
async def test_links_that_may_lead_outside_are_refused_before_anything_is_written(
    tmp_path: Path, target: str, parts: tuple[str, ...]
) -> None:
    async with server_with({FILE: DATA}) as remote:
        with pytest.raises(UntrustworthyAnswer, match="may lead outside"):
            await write(remote, file("f") + link(target, *parts), tmp_path / "out")
        assert os.listdir(tmp_path) == []

        await write(remote, link(target, *parts), tmp_path / "out", allow_outside_links=True)
    assert os.readlink(tmp_path.joinpath("out", *parts)) == target


async def test_links_inside_are_written(tmp_path: Path) -> None:
    async with server_with({}) as remote:
        await write(remote, link("../x", "d", "l") + link("d/e", "m"), tmp_path)

    assert os.readlink(tmp_path / "d" / "l") == "../x"
    assert os.readlink(tmp_path / "m") == "d/e"


async def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """A hostile server's link, or one that was there before, never becomes a way out."""
    os.mkdir(tmp_path / "outside")
    os.mkdir(tmp_path / "out")
    os.symlink(tmp_path / "outside", tmp_path / "out" / "d")

    async with server_with({FILE: DATA}) as remote:
        with pytest.raises(InTheWay, match="d: is not a directory; remove it"):
            await write(remote, file("d", "f"), tmp_path / "out")

    assert os.listdir(tmp_path / "outside") == []


async def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "out")
    os.symlink("../victim", tmp_path / "out" / "f")
    (tmp_path / "victim").write_bytes(b"precious")

    async with server_with({FILE: DATA}) as remote:
        await write(remote, file("f"), tmp_path / "out")

    assert contents(tmp_path / "victim") == b"precious"
    assert contents(tmp_path / "out" / "f") == DATA
    assert stat.S_ISREG(os.lstat(tmp_path / "out" / "f").st_mode)


async def test_a_directory_in_the_place_of_a_file_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "f" / "inner").mkdir(parents=True)

    async with server_with({FILE: DATA}) as remote:
        with pytest.raises(InTheWay, match="f: a directory is in the way"):
            await write(remote, file("f"), tmp_path)

    assert os.listdir(tmp_path) == ["f"]


async def test_a_missing_blob_leaves_no_partial_file(tmp_path: Path) -> None:
    async with server_with({}) as remote:
        with pytest.raises(BlobMissing):
            await write(remote, file("f"), tmp_path)
        with pytest.raises(BlobMissing):
            await write_file(remote, SHA256.digest(bytes(5_000_000)), tmp_path / "g")

    assert os.listdir(tmp_path) == []


def test_a_tree_that_names_itself_into_the_millions_is_refused() -> None:
    """Thirty levels, each with the one below twice: 2^30 paths from 30 small blobs."""
    below = SHA256.digest(b"leaf")
    directories = {below: Directory()}
    for level in range(30):
        digest = SHA256.digest(str(level).encode())
        directories[digest] = Directory(
            directories=(DirectoryNode("a", below), DirectoryNode("b", below))
        )
        below = digest

    with pytest.raises(UntrustworthyAnswer, match="has over"):
        plan_tree(RemoteTree(below, directories), limit=10_000)
