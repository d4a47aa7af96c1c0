"""Cases 51-53: GetTree."""

from __future__ import annotations

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import CallFailed
from armitage.conformance import wire
from armitage.conformance.model import Failed, Level, Need, NotSupported, case
from armitage.conformance.session import Session, describe, random_bytes
from armitage.transport.port import Code

_MESSAGE_LIMIT = 4 * 1024 * 1024
_NEEDS = (Need.GET_TREE,)


def _directory(s: Session, **children: reapi.Digest) -> reapi.Directory:
    directory = reapi.Directory()
    directory.files.add(name="marker", digest=s.digest(b""))
    directory.node_properties.properties.add(name="nonce", value=random_bytes(8).hex())
    for name in sorted(children):
        directory.directories.add(name=name, digest=children[name])
    return directory


def _keys(s: Session, directories: list[reapi.Directory]) -> set[tuple[str, int]]:
    return {wire.key(s.digest(directory)) for directory in directories}


async def _all_pages(s: Session, root: reapi.Digest, page_size: int) -> list[list[reapi.Directory]]:
    """Reads a tree to its last page, asking on wherever a stream ends with a token."""
    pages: list[list[reapi.Directory]] = []
    token = ""
    for _ in range(1000):
        responses = await s.get_tree(root, page_size=page_size, token=token)
        pages += [list(response.directories) for response in responses]
        token = responses[-1].next_page_token if responses else ""
        if not token:
            return pages
    raise Failed("a thousand pages and still a next_page_token")


@case(
    51,
    "GetTree answers every directory, leaves holes out, and misses an absent root",
    source="GetTree: the portion present; NOT_FOUND when the root is absent",
    needs=_NEEDS,
)
async def tree_is_complete(s: Session) -> None:
    shared, left_leaf = _directory(s), _directory(s)
    left = _directory(s, leaf=s.digest(left_leaf), shared=s.digest(shared))
    hole = _directory(s)
    right = _directory(s, hole=s.digest(hole), shared=s.digest(shared))
    root = _directory(s, left=s.digest(left), right=s.digest(right))
    await s.put(shared, left_leaf, left, right, root)
    pages = await _all_pages(s, s.digest(root), 0)
    got = [directory for page in pages for directory in page]
    wanted = _keys(s, [root, left, right, shared, left_leaf])
    keys = _keys(s, got)
    seen = f"{len(keys & wanted)} of 5 directories, {len(keys - wanted)} strange ones"
    s.check(keys == wanted, seen)
    s.check(_keys(s, got[:1]) == _keys(s, [root]), "the root does not come first", Level.INTEROP)
    await s.rejected(s.get_tree(s.absent()), {Code.NOT_FOUND}, "absent root")
    lonely = reapi.Directory()
    await s.put(lonely)
    empty = await _all_pages(s, s.digest(lonely), 0)
    directories = [directory for page in empty for directory in page]
    s.check(directories in ([lonely], []), "an empty root gives something else")


@case(
    52,
    "GetTree by pages of one gives the same tree; a token resumes, a bad one is refused",
    source="GetTreeRequest.page_size, .page_token",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def tree_comes_in_pages(s: Session) -> None:
    leaves = [_directory(s) for _ in range(5)]
    root = _directory(s, **{f"d{n}": s.digest(leaf) for n, leaf in enumerate(leaves)})
    await s.put(*leaves, root)
    wanted = _keys(s, [root, *leaves])
    responses = await s.get_tree(s.digest(root), page_size=1)
    largest = max((len(response.directories) for response in responses), default=0)
    s.check(largest <= 1, f"page_size 1, yet {largest} directories in a message", Level.SHOULD)
    pages = await _all_pages(s, s.digest(root), 1)
    got = _keys(s, [directory for page in pages for directory in page])
    s.check(got == wanted, f"by pages, {len(got)} of {len(wanted)} directories")
    token = responses[0].next_page_token if responses else ""
    if token:
        rest = await s.get_tree(s.digest(root), page_size=1, token=token)
        again = [directory for response in rest for directory in response.directories]
        first = list(responses[0].directories)
        both = _keys(s, [*first, *again])
        complete = both == wanted or rest[-1].next_page_token != ""
        s.check(complete, "the first page and what its token resumes are not the tree")
    await s.rejected(
        s.get_tree(s.digest(root), page_size=1, token=random_bytes(8).hex()),
        {Code.INVALID_ARGUMENT},
        "a made-up page_token",
        level=Level.INTEROP,
    )


@case(
    53,
    "A very large tree comes in messages that a client can receive",
    source="gRPC clients receive 4 MiB at most unless told otherwise",
    level=Level.INTEROP,
    needs=_NEEDS,
    alone=True,
)
async def large_tree_is_split(s: Session) -> None:
    count = 100_000 if s.options.full else 3_000
    leaves = [_directory(s) for _ in range(count)]
    if not s.options.full:
        for leaf in leaves:
            leaf.node_properties.properties.add(name="padding", value="x" * 2000)
    digests = await s.put(*leaves)
    width = 1000
    middles = [
        _directory(s, **{f"d{n}": digest for n, digest in enumerate(digests[at : at + width])})
        for at in range(0, count, width)
    ]
    root = _directory(s, **{f"m{n}": digest for n, digest in enumerate(await s.put(*middles))})
    await s.put(root)
    try:
        responses = await s.get_tree(s.digest(root))
        while responses and responses[-1].next_page_token:
            token = responses[-1].next_page_token
            responses += await s.get_tree(s.digest(root), token=token)
    except CallFailed as error:
        if error.code == Code.RESOURCE_EXHAUSTED:
            raise NotSupported(f"{count} directories: {describe(error)}") from None
        raise
    largest = max(response.ByteSize() for response in responses)
    s.check(largest <= _MESSAGE_LIMIT, f"a message of {largest} bytes", Level.INTEROP)
    got = {wire.key(s.digest(d)) for response in responses for d in response.directories}
    wanted = count + len(middles) + 1
    s.check(len(got) == wanted, f"{len(got)} of {wanted} directories", Level.MUST)
