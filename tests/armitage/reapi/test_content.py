"""ContentAddressableStorage over a memory store."""

from __future__ import annotations

import tracemalloc

import pytest
from support.wire import BLAKE3, SHA256, Failed, PlainStore, Services, code_of, wire

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.reapi import rpcs
from armitage.reapi.digests import DigestPolicy, Unmarked64
from armitage.reapi.instances import Instance
from armitage.reapi.limits import Limits
from armitage.reapi.request_metadata import HEADER
from armitage.transport.port import Code
from cas.compression import Codec
from cas.digest import DigestFunction

ZSTD = reapi.Compressor.ZSTD
IDENTITY = reapi.Compressor.IDENTITY


def invocation(name: str) -> dict[str, str | bytes]:
    return {HEADER: reapi.RequestMetadata(tool_invocation_id=name).SerializeToString()}


async def update(services: Services, *entries: tuple[reapi.Digest, bytes, int]) -> list[Code]:
    request = reapi.BatchUpdateBlobsRequest(
        requests=[
            reapi.BatchUpdateBlobsRequest.Request(
                digest=digest,
                data=data,
                compressor=compressor,  # type: ignore[arg-type]
            )
            for digest, data, compressor in entries
        ]
    )
    answer = await services.call(rpcs.BATCH_UPDATE_BLOBS, request)
    assert [response.digest for response in answer.responses] == [entry[0] for entry in entries]
    assert all(response.HasField("status") for response in answer.responses)
    return [Code(response.status.code) for response in answer.responses]


async def read(
    services: Services, *digests: reapi.Digest, acceptable: tuple[reapi.Compressor.Value, ...] = ()
) -> list[reapi.BatchReadBlobsResponse.Response]:
    request = reapi.BatchReadBlobsRequest(digests=digests, acceptable_compressors=acceptable)
    answer = await services.call(rpcs.BATCH_READ_BLOBS, request)
    assert all(response.HasField("status") for response in answer.responses)
    return list(answer.responses)


async def test_find_missing_answers_exactly_the_absent_in_order() -> None:
    services = Services()
    here = await services.put(b"here")
    absent = [SHA256.digest(b"a"), SHA256.digest(b"b")]

    assert await services.missing(absent[0], here, absent[1]) == [wire(d) for d in absent]


async def test_find_missing_echoes_duplicates_and_wrong_sizes() -> None:
    services = Services()
    here = await services.put(b"here")
    longer = reapi.Digest(hash=here.hash, size_bytes=5)
    request = reapi.FindMissingBlobsRequest(blob_digests=[longer, wire(here), longer])

    answer = await services.call(rpcs.FIND_MISSING_BLOBS, request)

    assert list(answer.missing_blob_digests) == [longer, longer]


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_the_empty_blob_is_never_missing(function: DigestFunction) -> None:
    assert await Services().missing(function.empty) == []


@pytest.mark.parametrize(
    "digest",
    [
        reapi.Digest(hash="A" * 64, size_bytes=1),
        reapi.Digest(hash="a" * 63, size_bytes=1),
        reapi.Digest(hash="a" * 64, size_bytes=-1),
        reapi.Digest(),
    ],
)
async def test_a_bad_digest_is_an_invalid_argument(digest: reapi.Digest) -> None:
    request = reapi.FindMissingBlobsRequest(blob_digests=[digest])

    assert await code_of(Services().call(rpcs.FIND_MISSING_BLOBS, request)) == Code.INVALID_ARGUMENT


async def test_an_unmarked_digest_is_found_under_either_function() -> None:
    services = Services()
    ours = [await services.put(b"one"), await services.put(b"two", BLAKE3)]

    assert await services.missing(*ours, BLAKE3.digest(b"three")) == [wire(BLAKE3.digest(b"three"))]


async def test_a_marked_digest_is_found_under_its_function_only() -> None:
    services = Services()
    digest = await services.put(b"one")
    request = reapi.FindMissingBlobsRequest(
        blob_digests=[wire(digest)], digest_function=reapi.DigestFunction.BLAKE3
    )

    answer = await services.call(rpcs.FIND_MISSING_BLOBS, request)

    assert list(answer.missing_blob_digests) == [wire(digest)]


async def test_a_function_that_is_not_offered_is_an_invalid_argument() -> None:
    services = Services([Instance("", DigestPolicy((SHA256,)))])
    request = reapi.FindMissingBlobsRequest(digest_function=reapi.DigestFunction.BLAKE3)

    with pytest.raises(Failed, match="BLAKE3 is not offered here; use SHA256"):
        await services.call(rpcs.FIND_MISSING_BLOBS, request)


@pytest.mark.parametrize("name", ["", "main", "a/b/c"])
async def test_instances_go_by_their_name(name: str) -> None:
    services = Services([Instance(name)])
    request = reapi.FindMissingBlobsRequest(instance_name=name, blob_digests=[])

    assert await code_of(services.call(rpcs.FIND_MISSING_BLOBS, request)) == Code.OK

    request.instance_name = "other"
    assert await code_of(services.call(rpcs.FIND_MISSING_BLOBS, request)) == Code.NOT_FOUND


async def test_what_is_found_is_held_for_the_invocation_until_it_falls_silent() -> None:
    services = Services()
    digest = await services.put(b"kept")
    request = reapi.FindMissingBlobsRequest(
        blob_digests=[wire(digest), wire(SHA256.digest(b"absent"))]
    )

    await services.call(rpcs.FIND_MISSING_BLOBS, request, invocation("build"))
    assert services.store.stats().held == 1

    services.time.now += 10_000
    services.invocations.expire()
    assert services.store.stats().held == 0


async def test_find_missing_takes_fields_in_any_order() -> None:
    services = Services([Instance("main")])
    digests = [SHA256.digest(bytes([n])) for n in range(3)]
    plain = reapi.FindMissingBlobsRequest(
        blob_digests=[wire(digest) for digest in digests]
    ).SerializeToString()
    named = plain + reapi.FindMissingBlobsRequest(instance_name="main").SerializeToString()
    unknown_field = named + b"\xfa\x07\x03abc"
    from armitage.transport.port import Call

    for request in (named, unknown_field):
        answer = await services.content.find_missing_blobs(request, Call(""))
        assert len(reapi.FindMissingBlobsResponse.FromString(answer).missing_blob_digests) == 3


@pytest.mark.slow
async def test_a_hundred_thousand_digests_are_answered_in_one_call() -> None:
    services = Services()
    digests = [
        reapi.Digest(hash=f"{number:064x}", size_bytes=number) for number in range(1, 100_001)
    ]

    answer = await services.call(
        rpcs.FIND_MISSING_BLOBS, reapi.FindMissingBlobsRequest(blob_digests=digests)
    )

    assert list(answer.missing_blob_digests) == digests


async def test_batch_update_judges_each_blob() -> None:
    services = Services()
    good, bad = SHA256.digest(b"good"), SHA256.digest(b"what was meant")

    codes = await update(services, (wire(good), b"good", 0), (wire(bad), b"what was sent!", 0))

    assert codes == [Code.OK, Code.INVALID_ARGUMENT]
    assert await services.missing(good, bad) == [wire(bad)]
    assert await update(services, (wire(good), b"good", 0)) == [Code.OK]


async def test_batch_update_stores_unmarked_blobs_under_the_function_that_matches() -> None:
    services = Services()
    digests = [SHA256.digest(b"one"), BLAKE3.digest(b"two")]

    await update(services, (wire(digests[0]), b"one", 0), (wire(digests[1]), b"two", 0))

    assert await services.store.find_missing(digests) == []


async def test_the_unmarked_policy_decides_what_64_characters_mean() -> None:
    services = Services([Instance("", DigestPolicy(unmarked_64=Unmarked64.SHA256))])
    digest = BLAKE3.digest(b"two")

    assert await update(services, (wire(digest), b"two", 0)) == [Code.INVALID_ARGUMENT]


async def test_a_batch_of_exactly_the_limit_is_taken_and_a_byte_more_is_not() -> None:
    services = Services(limits=Limits(max_batch_total_size_bytes=100))
    data = bytes(100)

    assert await update(services, (wire(SHA256.digest(data)), data, 0)) == [Code.OK]
    with pytest.raises(Failed, match="over the limit of 100") as failed:
        await update(services, (wire(SHA256.digest(data)), data + b"x", 0))
    assert failed.value.code == Code.INVALID_ARGUMENT


@pytest.mark.slow
async def test_fifty_thousand_one_byte_blobs_fit_in_one_batch() -> None:
    services = Services()
    entries = [
        (wire(SHA256.digest(bytes([number % 256]))), bytes([number % 256]), 0)
        for number in range(50_000)
    ]

    assert set(await update(services, *entries)) == {Code.OK}


@pytest.mark.parametrize("compressor", ["ZSTD", "DEFLATE", "BROTLI"])
async def test_a_compressed_batch_blob_is_stored_plain(compressor: str) -> None:
    services = Services()
    data = b"compressible " * 100
    packed = Codec(compressor.lower()).compress(data)
    number = reapi.Compressor.Value.Value(compressor)

    assert await update(services, (wire(SHA256.digest(data)), packed, number)) == [Code.OK]
    assert await services.store.get(SHA256.digest(data)) == data


async def test_a_bad_compressed_batch_blob_is_refused_alone() -> None:
    services = Services()
    good, bad = SHA256.digest(b"good"), SHA256.digest(b"bad")

    codes = await update(services, (wire(good), b"good", 0), (wire(bad), b"not zstd", ZSTD))

    assert codes == [Code.OK, Code.INVALID_ARGUMENT]


async def test_an_unknown_compressor_is_refused_alone() -> None:
    digest = SHA256.digest(b"x")

    assert await update(Services(), (wire(digest), b"x", 77)) == [Code.INVALID_ARGUMENT]


async def test_a_batch_bomb_is_refused_in_bounded_memory() -> None:
    services = Services()
    compressor = Codec.ZSTD.compressor()
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(256)) + compressor.finish()
    digest = reapi.Digest(hash="a" * 64, size_bytes=8)
    tracemalloc.start()

    codes = await update(services, (digest, bomb, ZSTD))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert codes == [Code.INVALID_ARGUMENT]
    assert peak < 8 << 20


async def test_a_blob_over_the_instances_limit_is_refused_alone() -> None:
    services = Services([Instance(max_blob_size_bytes=3)])
    small, large = SHA256.digest(b"abc"), SHA256.digest(b"abcd")

    codes = await update(services, (wire(small), b"abc", 0), (wire(large), b"abcd", 0))

    assert codes == [Code.OK, Code.INVALID_ARGUMENT]


async def test_batch_read_judges_each_blob() -> None:
    services = Services()
    here, absent, empty = await services.put(b"here"), SHA256.digest(b"absent"), SHA256.empty

    answers = await read(services, wire(here), wire(absent), wire(empty))

    assert [Code(a.status.code) for a in answers] == [Code.OK, Code.NOT_FOUND, Code.OK]
    assert [a.data for a in answers] == [b"here", b"", b""]


async def test_batch_read_over_the_limit_is_an_invalid_argument() -> None:
    services = Services(limits=Limits(max_batch_total_size_bytes=5))
    digest = await services.put(b"abc")

    assert await code_of(read(services, wire(digest), wire(digest))) == Code.INVALID_ARGUMENT


async def test_batch_read_sends_zstd_as_it_came_to_those_who_take_it() -> None:
    services = Services()
    data = b"compressible " * 1000
    digest, stream = SHA256.digest(data), Codec.ZSTD.compress(data[:5000])
    stream += Codec.ZSTD.compress(data[5000:])
    assert await update(services, (wire(digest), stream, ZSTD)) == [Code.OK]

    [plain] = await read(services, wire(digest))
    [packed] = await read(services, wire(digest), acceptable=(ZSTD,))

    assert (plain.compressor, plain.data) == (IDENTITY, data)
    assert (packed.compressor, packed.data) == (ZSTD, stream)


async def test_batch_read_compresses_nothing_that_came_plain() -> None:
    services = Services()
    data = b"compressible " * 1000
    digest = await services.put(data)

    [answer] = await read(services, wire(digest), acceptable=(ZSTD,))

    assert (answer.compressor, answer.data) == (IDENTITY, data)


async def test_a_store_that_keeps_no_zstd_serves_it_plain() -> None:
    services = Services(store=PlainStore())
    data = b"compressible " * 1000
    digest = SHA256.digest(data)
    assert await update(services, (wire(digest), Codec.ZSTD.compress(data), ZSTD)) == [Code.OK]

    [answer] = await read(services, wire(digest), acceptable=(ZSTD,))

    assert (answer.compressor, answer.data) == (IDENTITY, data)


async def test_batch_read_finds_unmarked_blobs_of_either_function() -> None:
    services = Services()
    digests = [await services.put(b"one"), await services.put(b"two", BLAKE3)]

    answers = await read(services, *(wire(digest) for digest in digests))

    assert [a.data for a in answers] == [b"one", b"two"]


def directory(*children: reapi.Directory, marker: str = "") -> reapi.Directory:
    return reapi.Directory(
        directories=[
            reapi.DirectoryNode(
                name=f"d{index}", digest=wire(SHA256.digest(child.SerializeToString()))
            )
            for index, child in enumerate(children)
        ],
        symlinks=[reapi.SymlinkNode(name="s", target=marker)] if marker else [],
    )


async def stored(services: Services, tree: reapi.Directory) -> reapi.Digest:
    return wire(await services.put(tree.SerializeToString()))


async def pages(services: Services, **fields: object) -> list[reapi.GetTreeResponse]:
    request = reapi.GetTreeRequest(**fields)  # type: ignore[arg-type]
    return [page async for page in services.stream(rpcs.GET_TREE, request)]


async def test_get_tree_gives_each_directory_once_and_omits_holes() -> None:
    services = Services()
    shared, hole = directory(marker="shared"), directory(marker="hole")
    middle = directory(shared, hole, marker="middle")
    root = directory(middle, shared)
    for tree in (shared, middle):
        await stored(services, tree)
    digest = await stored(services, root)

    [page] = await pages(services, root_digest=digest)

    assert list(page.directories) == [root, middle, shared]
    assert page.next_page_token == ""


async def test_get_tree_without_its_root_is_not_found() -> None:
    services = Services()
    request = reapi.GetTreeRequest(root_digest=wire(SHA256.digest(b"absent")))

    assert await code_of(services.stream(rpcs.GET_TREE, request)) == Code.NOT_FOUND


async def test_get_tree_of_the_empty_directory_is_one_empty_directory() -> None:
    [page] = await pages(Services(), root_digest=wire(SHA256.empty))

    assert list(page.directories) == [reapi.Directory()]


async def test_get_tree_goes_on_from_any_page_token() -> None:
    services = Services()
    leaves = [directory(marker=f"leaf {n}") for n in range(5)]
    root = directory(*leaves)
    for leaf in leaves:
        await stored(services, leaf)
    digest = await stored(services, root)

    whole = await pages(services, root_digest=digest, page_size=1)
    assert [len(page.directories) for page in whole] == [1] * 6

    for index, page in enumerate(whole[:-1]):
        rest = await pages(
            services, root_digest=digest, page_size=1, page_token=page.next_page_token
        )
        assert rest == whole[index + 1 :]


async def test_get_tree_refuses_tokens_it_never_gave() -> None:
    services = Services()
    ours = await stored(services, directory(marker="ours"))
    other = await stored(services, directory(directory(), marker="other"))
    [first, _] = await pages(services, root_digest=other, page_size=1)

    for token in ("nonsense", "1-0123456789abcdef", "9" * 30, first.next_page_token):
        request = reapi.GetTreeRequest(root_digest=ours, page_token=token)
        assert await code_of(services.stream(rpcs.GET_TREE, request)) == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "blob",
    [
        b"\xffnot a message",
        reapi.Directory(
            directories=[reapi.DirectoryNode(name="d", digest=reapi.Digest(hash="zz"))]
        ).SerializeToString(),
    ],
)
async def test_get_tree_of_what_is_no_directory_is_an_invalid_argument(blob: bytes) -> None:
    services = Services()
    request = reapi.GetTreeRequest(root_digest=wire(await services.put(blob)))

    assert await code_of(services.stream(rpcs.GET_TREE, request)) == Code.INVALID_ARGUMENT


async def test_get_tree_refuses_endless_trees() -> None:
    services = Services(limits=Limits(max_tree_directories=3))
    root = directory(*(directory(marker=str(n)) for n in range(4)))
    request = reapi.GetTreeRequest(root_digest=await stored(services, root))

    assert await code_of(services.stream(rpcs.GET_TREE, request)) == Code.RESOURCE_EXHAUSTED


async def test_get_tree_walks_a_thousand_levels() -> None:
    services = Services()
    tree = directory(marker="bottom")
    digest = await stored(services, tree)
    for _ in range(999):
        tree = directory(tree)
        digest = await stored(services, tree)

    [page] = await pages(services, root_digest=digest)

    assert len(page.directories) == 1000


@pytest.mark.slow
async def test_get_tree_pages_a_hundred_thousand_directories() -> None:
    services = Services()
    branches = []
    for branch in range(100):
        leaves = [directory(marker=f"{branch}/{leaf}") for leaf in range(999)]
        for leaf in leaves:
            await stored(services, leaf)
        branches.append(directory(*leaves))
        await stored(services, branches[-1])
    digest = await stored(services, directory(*branches))

    answer = await pages(services, root_digest=digest)

    assert sum(len(page.directories) for page in answer) == 100_001
    assert len(answer) > 1
    assert max(page.ByteSize() for page in answer) < 4 << 20
