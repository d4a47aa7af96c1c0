"""The directory codec."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.reapi.trees import DirectoryCodec
from cas.digest import DigestFunction
from executor.errors import InvalidInput
from executor.spec import Directory, DirectoryNode, FileNode, SymlinkNode

SHA256 = DigestFunction.SHA256
ONE = SHA256.digest(b"one")
WIRE_ONE = reapi.Digest(hash=ONE.hash, size_bytes=ONE.size_bytes)

names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255)


@st.composite
def directories(draw: st.DrawFn) -> Directory:
    unique = draw(st.lists(names, unique=True, max_size=8))
    kinds = [draw(st.integers(0, 2)) for _ in unique]
    pairs = list(zip(unique, kinds, strict=True))
    return Directory(
        files=tuple(FileNode(n, ONE, draw(st.booleans())) for n, kind in pairs if kind == 0),
        directories=tuple(DirectoryNode(n, ONE) for n, kind in pairs if kind == 1),
        symlinks=tuple(SymlinkNode(n, "../target") for n, kind in pairs if kind == 2),
    )


@given(directories())
def test_encoding_sorts_and_decodes_to_the_same(directory: Directory) -> None:
    codec = DirectoryCodec()

    data = codec.encode_directory(directory)
    decoded = codec.parse(data, SHA256)

    for mine, theirs in (
        (directory.files, decoded.files),
        (directory.directories, decoded.directories),
        (directory.symlinks, decoded.symlinks),
    ):
        assert sorted(mine, key=lambda node: node.name) == list(theirs)
    assert codec.encode_directory(decoded) == data
    assert reapi.Directory.FromString(data).SerializeToString() == data


@given(st.binary(max_size=100))
def test_any_bytes_are_a_directory_or_invalid_input(data: bytes) -> None:
    try:
        DirectoryCodec().parse(data, SHA256)
    except InvalidInput:
        return


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b", "x" * 256, "é" * 128])
@pytest.mark.parametrize("kind", ["files", "directories", "symlinks"])
def test_impossible_names_are_refused(name: str, kind: str) -> None:
    wire = reapi.Directory()
    node = getattr(wire, kind).add(name=name)
    if kind == "symlinks":
        node.target = "t"
    else:
        node.digest.CopyFrom(WIRE_ONE)

    with pytest.raises(InvalidInput):
        DirectoryCodec().parse(wire.SerializeToString(), SHA256)


def test_a_name_may_be_in_one_list_once() -> None:
    file = reapi.FileNode(name="n", digest=WIRE_ONE)
    below = reapi.DirectoryNode(name="n", digest=WIRE_ONE)
    link = reapi.SymlinkNode(name="n", target="t")
    for wire in (
        reapi.Directory(files=[file, file]),
        reapi.Directory(files=[file], directories=[below]),
        reapi.Directory(directories=[below], symlinks=[link]),
    ):
        with pytest.raises(InvalidInput, match="'n' is in a directory twice"):
            DirectoryCodec().parse(wire.SerializeToString(), SHA256)


def test_unsorted_input_and_node_properties_are_taken() -> None:
    properties = reapi.NodeProperties(properties=[reapi.NodeProperty(name="k", value="v")])
    wire = reapi.Directory(
        files=[
            reapi.FileNode(name="b", digest=WIRE_ONE, node_properties=properties),
            reapi.FileNode(name="a", digest=WIRE_ONE),
        ],
        node_properties=properties,
    )

    decoded = DirectoryCodec().parse(wire.SerializeToString(), SHA256)

    assert [node.name for node in decoded.files] == ["b", "a"]


@pytest.mark.parametrize(
    "digest", [reapi.Digest(), reapi.Digest(hash="a" * 40, size_bytes=1), None]
)
def test_a_bad_digest_names_its_node(digest: reapi.Digest | None) -> None:
    wire = reapi.Directory(files=[reapi.FileNode(name="culprit", digest=digest)])

    with pytest.raises(InvalidInput, match="culprit"):
        DirectoryCodec().parse(wire.SerializeToString(), SHA256)


def test_absolute_symlinks_follow_the_strategy() -> None:
    wire = reapi.Directory(symlinks=[reapi.SymlinkNode(name="l", target="/etc/passwd")])
    data = wire.SerializeToString()

    assert DirectoryCodec().parse(data, SHA256).symlinks == (SymlinkNode("l", "/etc/passwd"),)
    with pytest.raises(InvalidInput, match="absolute"):
        DirectoryCodec(allow_absolute_symlinks=False).parse(data, SHA256)


@pytest.mark.parametrize("target", ["", "a\0b"])
def test_impossible_symlink_targets_are_refused(target: str) -> None:
    wire = reapi.Directory(symlinks=[reapi.SymlinkNode(name="l", target=target)])

    with pytest.raises(InvalidInput, match="impossible target"):
        DirectoryCodec().parse(wire.SerializeToString(), SHA256)


@given(directories(), st.lists(directories(), max_size=4))
def test_a_tree_keeps_its_directories_byte_for_byte_in_order(
    root: Directory, children: list[Directory]
) -> None:
    codec = DirectoryCodec()
    encoded = [codec.encode_directory(child) for child in children]

    data = codec.encode_tree(codec.encode_directory(root), encoded)

    tree = reapi.Tree.FromString(data)
    assert tree.root.SerializeToString() == codec.encode_directory(root)
    assert [child.SerializeToString() for child in tree.children] == encoded


@pytest.mark.slow
def test_a_hundred_thousand_entries_are_read() -> None:
    wire = reapi.Directory()
    for number in range(100_000):
        wire.files.add(name=f"{number:06}", digest=WIRE_ONE)

    assert len(DirectoryCodec().parse(wire.SerializeToString(), SHA256).files) == 100_000
