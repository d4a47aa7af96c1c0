"""What is attested of a result: the outputs in it, and the artefacts that they hold (REAPI
`ActionResult`).

An ActionResult has room for things that no digest in it binds: contents inlined beside a digest, a
second list of symlinks, a root that is not the Tree's. Of what an executor found nothing of that is
at odds; of a result that comes from elsewhere, it is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.attest.facts import Outputs
from armitage.errors import InvalidRequest
from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest
from cas.store import BlobStore
from executor.spec import Outcome

_MAX_SUBJECTS: Final = 1_000
_MAX_TREE_BYTES: Final = 64 << 20
_PARSE_IN_THREAD_BYTES: Final = 1 << 18


class NotPlain(InvalidRequest):
    """A result that holds more than its digests bind; about such a one nothing is attested."""


async def subjects_of(outcome: Outcome, store: BlobStore) -> tuple[tuple[str, Digest], ...]:
    """Answers all output files, each once, those in directories too. Files in directories are left
    out where there are too many (over 1,000 in all): the list of outputs names their Trees. Raises
    BlobNotFound.
    """
    files = dict.fromkeys((file.path, file.digest) for file in outcome.files)
    inside: dict[tuple[str, Digest], None] = {}
    for directory in outcome.directories:
        if directory.tree.size_bytes > _MAX_TREE_BYTES:
            return tuple(files)
        tree = await _tree(directory.tree, store)
        if len(tree.children) > _MAX_SUBJECTS:
            return tuple(files)
        for found in _files(tree, directory.path, directory.tree.function):
            if len(files) + len(inside) >= _MAX_SUBJECTS:
                return tuple(files)
            inside[found] = None
    return tuple(files | inside)


async def outputs_of_result(
    result: reapi.ActionResult, function: DigestFunction, store: BlobStore
) -> Outputs:
    """Answers the outputs that a result names. Raises NotPlain, and BlobNotFound for a Tree that is
    not there.
    """
    _refuse_inlined(result)
    for directory in result.output_directories:
        await _check_root(directory, function, store)
    return Outputs(
        result.exit_code,
        tuple(
            (file.path, _digest(function, file.digest), file.is_executable)
            for file in result.output_files
        ),
        tuple(
            (directory.path, _digest(function, directory.tree_digest))
            for directory in result.output_directories
        ),
        tuple(_symlinks(result).items()),
    )


def printed_of_result(
    result: reapi.ActionResult, function: DigestFunction
) -> tuple[Digest, Digest]:
    """Answers the digests of stdout and stderr; the empty blob's where there are none. Raises
    NotPlain.
    """
    streams = (("stdout_digest", result.stdout_digest), ("stderr_digest", result.stderr_digest))
    stdout, stderr = (
        _digest(function, wire) if result.HasField(name) else function.empty
        for name, wire in streams
    )
    return stdout, stderr


def _refuse_inlined(result: reapi.ActionResult) -> None:
    if result.stdout_raw or result.stderr_raw or any(f.contents for f in result.output_files):
        raise NotPlain("it has contents inlined beside their digests")
    described = (*result.output_files, *_all_symlinks(result))
    if any(each.HasField("node_properties") for each in described):
        raise NotPlain("it has node properties")


async def _check_root(
    directory: reapi.OutputDirectory, function: DigestFunction, store: BlobStore
) -> None:
    if not directory.HasField("tree_digest"):
        raise NotPlain(f"output directory {directory.path!r} has no Tree")
    if not directory.HasField("root_directory_digest"):
        return
    tree = await _tree(_digest(function, directory.tree_digest), store)
    root = _digest(function, directory.root_directory_digest)
    if function.digest(tree.root.SerializeToString(deterministic=True)) != root:
        raise NotPlain(f"the root of output directory {directory.path!r} is not its Tree's")


def _symlinks(result: reapi.ActionResult) -> dict[str, str]:
    """All three lists, which must not contradict each other."""
    found: dict[str, str] = {}
    for link in _all_symlinks(result):
        if found.setdefault(link.path, link.target) != link.target:
            raise NotPlain(f"output symlink {link.path!r} is there with two targets")
    return found


def _all_symlinks(result: reapi.ActionResult) -> tuple[reapi.OutputSymlink, ...]:
    return (
        *result.output_symlinks,
        *result.output_file_symlinks,
        *result.output_directory_symlinks,
    )


async def _tree(digest: Digest, store: BlobStore) -> reapi.Tree:
    if digest.size_bytes > _MAX_TREE_BYTES:
        raise NotPlain(f"tree {digest} is over {_MAX_TREE_BYTES} bytes")
    data = await store.get(digest)
    try:
        if len(data) > _PARSE_IN_THREAD_BYTES:
            return await asyncio.to_thread(reapi.Tree.FromString, data)
        return reapi.Tree.FromString(data)
    except DecodeError as error:
        raise NotPlain(f"blob {digest} is not a Tree: {error}") from error


def _files(tree: reapi.Tree, path: str, function: DigestFunction) -> Iterator[tuple[str, Digest]]:
    """Walks a Tree. Ends for any: whoever takes from it stops somewhere."""
    children = {
        function.digest(child.SerializeToString(deterministic=True)): child
        for child in tree.children
    }
    pending = [(path, tree.root)]
    while pending:
        below, directory = pending.pop()
        prefix = f"{below}/" if below else ""
        for file in directory.files:
            yield f"{prefix}{file.name}", _digest(function, file.digest)
        for node in directory.directories:
            child = children.get(_digest(function, node.digest))
            if child is None:
                raise NotPlain(f"the Tree of {path!r} lacks its directory {prefix}{node.name!r}")
            pending.append((f"{prefix}{node.name}", child))


def _digest(function: DigestFunction, wire: reapi.Digest) -> Digest:
    try:
        return Digest(function, wire.hash, wire.size_bytes)
    except InvalidDigest as error:
        raise NotPlain(f"bad digest: {error}") from error
