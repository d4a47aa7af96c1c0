"""Walking input trees: complete, bounded, and cheap the second time."""

from __future__ import annotations

import pytest

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest
from armitage.reapi.digests import wire_digest
from armitage.reapi.inputs import InputLimits, InputTrees
from armitage.reapi.trees import DirectoryCodec
from cas.digest import Digest, DigestFunction
from cas.memory import MemoryStore

SHA256 = DigestFunction.SHA256


class CountingStore(MemoryStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def get(self, digest: Digest) -> bytes:
        self.reads += 1
        return await super().get(digest)


async def put(store: MemoryStore, directory: reapi.Directory) -> Digest:
    data = directory.SerializeToString()
    return await store.put([SHA256.digest(data)], data)


def file(name: str, data: bytes = b"data") -> reapi.FileNode:
    return reapi.FileNode(name=name, digest=wire_digest(SHA256.digest(data)))


def subdirectory(name: str, digest: Digest) -> reapi.DirectoryNode:
    return reapi.DirectoryNode(name=name, digest=wire_digest(digest))


def trees(store: MemoryStore, **limits: int) -> InputTrees:
    return InputTrees(store, DirectoryCodec(), InputLimits(**limits))


async def test_tree_names_every_directory_and_file_once() -> None:
    store = MemoryStore()
    leaf = await put(store, reapi.Directory(files=[file("a", b"1"), file("b", b"2")]))
    root = await put(
        store,
        reapi.Directory(
            files=[file("c", b"1")], directories=[subdirectory("x", leaf), subdirectory("y", leaf)]
        ),
    )

    tree = await trees(store).walk(root)

    assert tree.digests == {root, leaf, SHA256.digest(b"1"), SHA256.digest(b"2")}
    assert tree.missing == ()


async def test_empty_tree_needs_nothing_stored() -> None:
    store = MemoryStore()

    assert (await trees(store).walk(SHA256.empty)).missing == ()


async def test_empty_subdirectory_needs_nothing_stored() -> None:
    store = MemoryStore()
    root = await put(store, reapi.Directory(directories=[subdirectory("e", SHA256.empty)]))

    assert (await trees(store).walk(root)).missing == ()


async def test_missing_directories_are_all_named() -> None:
    store = MemoryStore()
    gone = [SHA256.digest(b"one"), SHA256.digest(b"two")]
    nodes = [subdirectory(str(i), digest) for i, digest in enumerate(gone)]
    root = await put(store, reapi.Directory(directories=nodes, files=[file("f")]))

    tree = await trees(store).walk(root)

    assert set(tree.missing) == set(gone)
    assert SHA256.digest(b"data") in tree.digests


async def test_repeat_reads_nothing() -> None:
    store = CountingStore()
    leaf = await put(store, reapi.Directory(files=[file("a")]))
    root = await put(store, reapi.Directory(directories=[subdirectory("x", leaf)]))
    walker = trees(store)
    first = await walker.walk(root)

    assert await walker.walk(root) == first
    assert store.reads == 2


async def test_memory_for_trees_is_bounded() -> None:
    store = CountingStore()
    walker = trees(store, max_remembered=10)
    roots = [
        await put(store, reapi.Directory(files=[file(f"{i}-{j}", b"%d" % j) for j in range(4)]))
        for i in range(10)
    ]
    for root in roots:
        await walker.walk(root)

    store.reads = 0
    for root in reversed(roots):
        await walker.walk(root)

    assert store.reads == 8


async def test_missing_directory_is_not_remembered_as_missing() -> None:
    store = MemoryStore()
    late = reapi.Directory(files=[file("late")])
    digest = SHA256.digest(late.SerializeToString())
    walker = trees(store)
    assert (await walker.walk(digest)).missing == (digest,)

    await put(store, late)

    assert (await walker.walk(digest)).missing == ()


async def test_large_directory_is_parsed_whole() -> None:
    store = MemoryStore()
    names = [file(f"{number:06}") for number in range(5_000)]
    root = await put(store, reapi.Directory(files=names))

    assert (await trees(store).walk(root)).digests == {root, SHA256.digest(b"data")}
    with pytest.raises(InvalidRequest, match="entries"):
        await trees(store, max_entries=4_999).walk(root)


async def test_directory_announced_too_large_is_refused_unread() -> None:
    store = CountingStore()

    with pytest.raises(InvalidRequest, match="limit"):
        await trees(store).walk(Digest(SHA256, "ab" * 32, 2**40))
    assert store.reads == 0


async def test_deep_branch_beside_a_shallow_one_to_the_same_directory_is_counted_deep() -> None:
    store = MemoryStore()
    leaf = await put(store, reapi.Directory(files=[file("f")]))
    middle = await put(store, reapi.Directory(directories=[subdirectory("m", leaf)]))
    root = await put(
        store,
        reapi.Directory(directories=[subdirectory("long", middle), subdirectory("short", leaf)]),
    )

    await trees(store, max_depth=3).walk(root)
    with pytest.raises(InvalidRequest, match="2 directories deep"):
        await trees(store, max_depth=2).walk(root)
