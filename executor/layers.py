"""How an input tree is divided into layers, so that actions with other trees can share most of it.

A directory with some number of entries is a layer, with all below it that is in no layer of its
own; what is left is one more. Together they are the tree, and nothing but directories is in two of
them, so it makes no difference which lies above which. How a tree is divided follows from the tree
alone: what an action sees does not depend on what ran before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cas.digest import Digest
from executor.spec import Directory

MOST_LAYERS = 16
"""Of one tree, beside that of its root: each makes a mount take longer, and kernels before Linux
6.7 take the names of all in 255 bytes.
"""


@dataclass(frozen=True, slots=True)
class Layer:
    """A directory of a tree without what other layers have of it. Equal ones have equal files."""

    path: str
    """Below the root, with a slash at its end; empty for the root itself."""
    digest: Digest
    apart: frozenset[Digest]
    """Which directories below it are in other layers."""
    entries: int = field(compare=False)
    """Files, directories and symlinks below it."""


def divide(
    root: Digest, tree: Mapping[Digest, Directory], least: int, most: int = MOST_LAYERS
) -> list[Layer]:
    """Divides a whole tree into layers, of which all but the first have `least` entries or more.

    The first is that of the root. Where that would make over `most`, they have more entries.
    """
    children = {
        digest: [node.digest for node in directory.directories]
        for digest, directory in tree.items()
    }
    order = parents_first(root, children)
    least = max(least, 1)
    while True:
        own, count = _measure(order, tree, children, least)
        if count[root] <= most:
            return _layers(root, tree, own, count, least)
        least *= 2


def parents_first(root: Digest, children: Mapping[Digest, Sequence[Digest]]) -> list[Digest]:
    """Orders distinct directories so that each comes before all that it holds."""
    finished: dict[Digest, None] = {}
    pending = [(root, False)]
    while pending:
        digest, is_done = pending.pop()
        if digest in finished:
            continue
        if is_done:
            finished[digest] = None
            continue
        pending.append((digest, True))
        pending.extend((child, False) for child in children[digest] if child not in finished)
    return list(reversed(finished))


def _measure(
    order: Sequence[Digest],
    tree: Mapping[Digest, Directory],
    children: Mapping[Digest, Sequence[Digest]],
    least: int,
) -> tuple[dict[Digest, int], dict[Digest, int]]:
    """Answers how many entries each directory has but for those of layers below it, and how many
    layers there are in it, as often as they are found there.
    """
    own: dict[Digest, int] = {}
    count: dict[Digest, int] = {}
    for digest in reversed(order):
        directory = tree[digest]
        inside = [own[child] for child in children[digest] if own[child] < least]
        size = len(directory.files) + len(directory.symlinks) + len(inside) + sum(inside)
        own[digest] = size
        count[digest] = (size >= least) + sum(count[child] for child in children[digest])
    return own, count


def _layers(
    root: Digest,
    tree: Mapping[Digest, Directory],
    own: Mapping[Digest, int],
    count: Mapping[Digest, int],
    least: int,
) -> list[Layer]:
    layers: list[Layer] = []
    tops = [("", root)]
    for path, top in tops:
        apart: set[Digest] = set()
        inside = [(path, top)]
        for prefix, digest in inside:
            for node in tree[digest].directories:
                below = (f"{prefix}{node.name}/", node.digest)
                if own[node.digest] >= least:
                    apart.add(node.digest)
                    tops.append(below)
                elif count[node.digest]:
                    inside.append(below)
        layers.append(Layer(path, top, frozenset(apart), own[top]))
    return layers
