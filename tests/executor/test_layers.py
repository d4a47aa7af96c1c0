"""Layers of an input tree: what is in them, and that they are the tree."""

from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from support.executing import SHA256, JsonCodec

from cas.digest import Digest
from executor.layers import Layer, divide
from executor.spec import Directory, DirectoryNode, FileNode, SymlinkNode
from executor.staging import Layout, _expand

Nested = Mapping[str, "str | Nested"]
NAMES = st.sampled_from("abcdef")
TREES = st.recursive(
    st.sampled_from(["file", "other", "link"]),
    lambda below: st.dictionaries(NAMES, below, max_size=5),
    max_leaves=40,
).filter(lambda tree: isinstance(tree, dict))


def read(tree: Nested, directories: dict[Digest, Directory]) -> Digest:
    """Names a tree whose files are strings, and adds all its directories."""
    files, links, below = [], [], []
    for name, node in tree.items():
        if node == "link":
            links.append(SymlinkNode(name, "a"))
        elif isinstance(node, str):
            files.append(FileNode(name, SHA256.digest(node.encode())))
        else:
            below.append(DirectoryNode(name, read(node, directories)))
    directory = Directory(tuple(files), tuple(below), tuple(links))
    digest = SHA256.digest(JsonCodec().encode_directory(directory))
    directories[digest] = directory
    return digest


def layers_of(tree: Nested, least: int, most: int = 32) -> list[Layer]:
    directories: dict[Digest, Directory] = {}
    return divide(read(tree, directories), directories, least, most)


def leaves(layout: Layout) -> list[object]:
    return [*layout.files, *layout.symlinks]


def wide(count: int) -> Nested:
    return {str(number): "file" for number in range(count)}


@given(TREES, st.integers(0, 8), st.integers(1, 6))
def test_layers_together_are_the_tree(tree: Nested, least: int, most: int) -> None:
    directories: dict[Digest, Directory] = {}
    root = read(tree, directories)
    whole = _expand([Layer("", root, frozenset(), 0)], directories)

    layers = divide(root, directories, least, most)

    parts = [_expand([layer], directories) for layer in layers]
    assert Counter(leaf for part in parts for leaf in leaves(part)) == Counter(leaves(whole))
    assert {path for part in parts for path in part.directories} == set(whole.directories)
    assert {node for part in parts for node in part.nodes} == set(whole.nodes)
    assert sorted(_expand(layers, directories).directories) == sorted(whole.directories)


@given(TREES, st.integers(0, 8), st.integers(1, 6))
def test_layers_but_that_of_the_root_are_large_and_few(tree: Nested, least: int, most: int) -> None:
    first, *others = layers_of(tree, least, most)

    assert first.path == ""
    assert all(layer.entries >= least for layer in others)
    assert len(others) <= most


@given(TREES, st.integers(0, 8))
def test_parents_come_before_what_they_hold(tree: Nested, least: int) -> None:
    directories: dict[Digest, Directory] = {}
    for layer in divide(read(tree, directories), directories, least):
        layout = _expand([layer], directories)
        made = {""}
        for path in layout.directories:
            assert path.rpartition("/")[0] in made
            made.add(path)
        assert {file.rpartition("/")[0] for _, file, _ in layout.files} <= made


def test_same_directory_at_the_same_path_is_the_same_layer_in_other_trees() -> None:
    tools: Nested = {"external": {"tools": {"bin": wide(9), "lib": wide(8)}}}

    one = layers_of({**tools, "src": {"a": "file"}}, 8)
    other = layers_of({**tools, "src": {"a": "other", "b": "file"}}, 8)

    assert [layer.path for layer in one] == ["", "external/tools/bin/", "external/tools/lib/"]
    assert one[1:] == other[1:]
    assert one[0] != other[0]


def test_small_directories_are_in_the_layer_around_them() -> None:
    tree: Nested = {"a": {"b": {"c": wide(2)}, "d": wide(2)}, "e": wide(2)}

    assert [(layer.path, layer.entries) for layer in layers_of(tree, 4)] == [("", 3), ("a/", 7)]
