import os
import socket
from pathlib import Path

import pytest
from support.daemon import running_daemon

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.blobs import upload
from armitage.client.channel import Channel
from armitage.client.errors import BlobMissing, UntrustworthyAnswer, UsageError
from armitage.client.remote import connect
from armitage.client.trees import build_tree, fetch_tree, read_tree_blob
from cas.digest import DigestFunction

SHA256 = DigestFunction.SHA256


def make_tree(root: Path) -> Path:
    (root / "empty").mkdir(parents=True)
    (root / "b").write_text("file b")
    (root / "a.sh").write_text("#!/bin/sh\n")
    (root / "a.sh").chmod(0o755)
    (root / "sub").mkdir()
    (root / "sub" / "same").write_text("file b")
    (root / "sub" / "dangling").symlink_to("../nowhere")
    (root / "link").symlink_to("/etc")
    return root


def test_a_directory_becomes_canonical_directories(tmp_path: Path) -> None:
    tree = build_tree(make_tree(tmp_path / "t"), SHA256)

    root = tree.blobs[tree.root]
    assert isinstance(root, bytes)
    directory = reapi.Directory.FromString(root)
    assert [(f.name, f.is_executable) for f in directory.files] == [("a.sh", True), ("b", False)]
    assert [d.name for d in directory.directories] == ["empty", "sub"]
    assert [(s.name, s.target) for s in directory.symlinks] == [("link", "/etc")]
    assert directory.directories[0].digest.size_bytes == 0
    assert tree.files == 3
    assert tree.size_bytes == 6 + 6 + 10


def test_equal_directories_have_equal_digests_whatever_their_order(tmp_path: Path) -> None:
    for name, order in (("x", (1, 2, 3)), ("y", (3, 1, 2))):
        (tmp_path / name).mkdir()
        for number in order:
            (tmp_path / name / str(number)).write_text(str(number))

    assert build_tree(tmp_path / "x", SHA256).root == build_tree(tmp_path / "y", SHA256).root


def test_a_deep_directory_is_no_recursion(tmp_path: Path) -> None:
    levels = [f"{tmp_path}{'/d' * depth}" for depth in range(1, 1501)]
    for level in levels:
        os.mkdir(level)

    try:
        assert len(build_tree(tmp_path, SHA256).blobs) == 1501
    finally:
        for level in reversed(levels):  # pytest's own clean-up would recurse.
            os.rmdir(level)


@pytest.mark.parametrize("kind", ["absent", "file"])
def test_an_input_that_is_no_directory_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.touch()

    with pytest.raises(UsageError, match=rf"{path}: is not a directory"):
        build_tree(path, SHA256)


def test_a_socket_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))

        with pytest.raises(UsageError, match=r"/s: is neither file, directory nor symlink"):
            build_tree(tmp_path, SHA256)


def test_a_name_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()

    with pytest.raises(UsageError, match=r"is not UTF-8"):
        build_tree(tmp_path, SHA256)


async def test_a_tree_comes_back_as_it_went(tmp_path: Path) -> None:
    tree = build_tree(make_tree(tmp_path), SHA256)
    async with running_daemon() as daemon, Channel(daemon.addresses.grpc[0]) as channel:
        remote = await connect(channel)
        await upload(remote, tree.blobs)

        fetched = await fetch_tree(remote, tree.root)

    directories = {digest for digest, source in tree.blobs.items() if isinstance(source, bytes)}
    assert fetched.root == tree.root
    assert set(fetched.directories) == directories


async def test_a_missing_or_malformed_directory_is_told(tmp_path: Path) -> None:
    bad = reapi.Directory(files=[reapi.FileNode(name="../x")]).SerializeToString()
    async with running_daemon() as daemon, Channel(daemon.addresses.grpc[0]) as channel:
        remote = await connect(channel)
        await upload(remote, {SHA256.digest(bad): bad})

        with pytest.raises(BlobMissing):
            await fetch_tree(remote, SHA256.digest(b"not there"))
        with pytest.raises(UntrustworthyAnswer):
            await fetch_tree(remote, SHA256.digest(bad))


async def test_a_tree_blob_must_be_whole() -> None:
    child = reapi.Directory(files=[])
    child.symlinks.add(name="l", target="t")
    encoded = child.SerializeToString()
    digest = SHA256.digest(encoded)
    root = reapi.Directory()
    wire = reapi.Digest(hash=digest.hash, size_bytes=digest.size_bytes)
    root.directories.add(name="d", digest=wire)
    whole = reapi.Tree(root=root, children=[child]).SerializeToString()
    broken = reapi.Tree(root=root).SerializeToString()
    async with running_daemon() as daemon, Channel(daemon.addresses.grpc[0]) as channel:
        remote = await connect(channel)
        blobs = {SHA256.digest(data): data for data in (whole, broken, b"\xff\xff")}
        await upload(remote, blobs)

        tree = await read_tree_blob(remote, SHA256.digest(whole))
        assert tree.directories[digest].symlinks[0].target == "t"
        with pytest.raises(UntrustworthyAnswer, match="lacks directory 'd'"):
            await read_tree_blob(remote, SHA256.digest(broken))
        with pytest.raises(UntrustworthyAnswer, match="is not a Tree"):
            await read_tree_blob(remote, SHA256.digest(b"\xff\xff"))
