"""ByteStream over a memory store."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

import pytest
from backports import zstd
from support.wire import (
    BLAKE3,
    SHA256,
    Failed,
    PlainStore,
    Services,
    code_of,
    upload_name,
    wire,
    write_messages,
)

from armitage._proto.google.bytestream import bytestream_pb2 as bytestream
from armitage.reapi import rpcs
from armitage.reapi.bytestream import ByteStreamOptions, CommittedSize
from armitage.reapi.instances import Instance
from armitage.reapi.uploads import UploadLimits
from armitage.transport.port import Code
from cas.compression import Codec
from cas.digest import Digest, DigestFunction
from cas.memory import MemoryOptions, MemoryStore

DATA = bytes(range(256)) * 5000
DIGEST = SHA256.digest(DATA)
TEXT = b"".join(b"%019d\n" % (number * 7919) for number in range(20_000))
CODECS = pytest.mark.parametrize("codec", list(Codec))


class Script:
    """A client's stream, fed message by message, so that it can be left open."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytestream.WriteRequest | None] = asyncio.Queue()
        self.taken = asyncio.Event()

    def send(self, *messages: bytestream.WriteRequest) -> None:
        for message in messages:
            self.queue.put_nowait(message)

    def half_close(self) -> None:
        self.queue.put_nowait(None)

    async def stream(self) -> AsyncIterator[bytestream.WriteRequest]:
        while True:
            if self.queue.empty():
                self.taken.set()
            message = await self.queue.get()
            if message is None:
                return
            yield message


async def test_one_message_with_the_whole_blob_is_stored() -> None:
    services = Services()

    assert await services.write(upload_name(DIGEST), DATA, piece=len(DATA)) == len(DATA)
    assert await services.store.get(DIGEST) == DATA


async def test_one_byte_messages_are_stored() -> None:
    services = Services()
    digest = SHA256.digest(b"one byte each")

    assert await services.write(upload_name(digest), b"one byte each", piece=1) == 13
    assert await services.read(f"blobs/{digest.hash}/13") == b"one byte each"


async def test_the_name_may_be_repeated_but_not_changed() -> None:
    services = Services()
    first, second = write_messages(upload_name(DIGEST), DATA, piece=len(DATA) // 2)
    second.resource_name = first.resource_name
    assert (await services.send(rpcs.WRITE, [first, second])).committed_size == len(DATA)

    other = SHA256.digest(b"other")
    first, second = write_messages(upload_name(other), b"other", piece=3)
    second.resource_name = upload_name(other, "u2")
    assert await code_of(services.send(rpcs.WRITE, [first, second])) == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("shift", [-1, 1])
async def test_a_gap_or_overlap_stores_nothing(shift: int) -> None:
    services = Services()
    first, second = write_messages(upload_name(DIGEST), DATA, piece=len(DATA) // 2)
    second.write_offset += shift

    assert await code_of(services.send(rpcs.WRITE, [first, second])) == Code.INVALID_ARGUMENT
    assert await services.missing(DIGEST) == [wire(DIGEST)]
    assert await services.write_status(upload_name(DIGEST)) == (0, False)


async def test_a_message_after_finish_write_is_an_invalid_argument() -> None:
    services = Services()
    messages = write_messages(upload_name(DIGEST), DATA)
    messages.append(bytestream.WriteRequest(write_offset=len(DATA)))

    assert await code_of(services.send(rpcs.WRITE, messages)) == Code.INVALID_ARGUMENT


async def test_a_finished_stream_left_open_is_answered() -> None:
    services = Services()
    script = Script()
    script.send(*write_messages(upload_name(DIGEST), DATA))

    assert (await services.send(rpcs.WRITE, script.stream())).committed_size == len(DATA)


@pytest.mark.parametrize("sent", [DATA[:-1], DATA + b"x", DATA[:-1] + b"x", b""])
async def test_other_bytes_than_announced_store_nothing(sent: bytes) -> None:
    services = Services()

    assert await code_of(services.write(upload_name(DIGEST), sent)) == Code.INVALID_ARGUMENT
    assert await services.missing(DIGEST) == [wire(DIGEST)]


async def test_a_stored_blob_is_answered_before_its_data_comes() -> None:
    services = Services()
    await services.put(DATA)
    script = Script()
    script.send(write_messages(upload_name(DIGEST), DATA, piece=10)[0])

    answer = await services.send(rpcs.WRITE, script.stream())

    assert answer.committed_size == len(DATA)


async def test_a_stored_blob_sent_compressed_is_answered_minus_one() -> None:
    services = Services()
    await services.put(DATA)

    assert await services.write(upload_name(DIGEST, codec="zstd"), b"anything") == -1


async def test_two_clients_upload_the_same_blob_together() -> None:
    services = Services()
    scripts = [Script(), Script()]
    messages = write_messages("", DATA, piece=len(DATA) // 2)
    async with asyncio.TaskGroup() as group:
        answers = []
        for number, script in enumerate(scripts):
            first = bytestream.WriteRequest()
            first.CopyFrom(messages[0])
            first.resource_name = upload_name(DIGEST, f"u{number}")
            script.send(first)
            answers.append(group.create_task(services.send(rpcs.WRITE, script.stream())))
        for script in scripts:
            await script.taken.wait()
        for script in scripts:
            script.send(messages[1])
            script.half_close()

    assert [answer.result().committed_size for answer in answers] == [len(DATA)] * 2
    assert services.store.stats().blobs == 1
    assert services.store.stats().reserved_bytes == 0


async def test_a_dropped_upload_may_start_again_at_zero() -> None:
    services = Services()
    half = write_messages(upload_name(DIGEST), DATA, piece=len(DATA) // 2)[:1]
    script = Script()
    script.send(*half)
    task = asyncio.TaskGroup()
    async with task as group:
        first = group.create_task(services.send(rpcs.WRITE, script.stream()))
        await script.taken.wait()
        first.cancel()

    assert await services.write(upload_name(DIGEST), DATA) == len(DATA)


async def test_the_newest_stream_of_an_upload_wins_while_the_first_is_open() -> None:
    services = Services()
    first, second = write_messages(upload_name(DIGEST), DATA, piece=len(DATA) // 2)
    script = Script()
    script.send(first)
    async with asyncio.TaskGroup() as group:
        old = group.create_task(code_of(services.send(rpcs.WRITE, script.stream())))
        await script.taken.wait()

        assert await services.write(upload_name(DIGEST), DATA) == len(DATA)

        script.send(second)
    assert old.result() == Code.ABORTED
    assert services.store.stats().reserved_bytes == 0


async def test_write_status_grows_from_nothing_to_complete() -> None:
    services = Services()
    name = upload_name(DIGEST)
    assert await services.write_status(name) == (0, False)

    assert await services.write(name, DATA[:1000], finish=False) == 1000
    assert await services.write_status(name) == (1000, False)

    await services.write(name, DATA[1000:], offset=1000)
    assert await services.write_status(name) == (len(DATA), True)
    assert await services.write_status(upload_name(DIGEST, "another")) == (len(DATA), True)


async def test_write_status_of_what_cannot_be_written_is_not_found() -> None:
    name = f"blobs/{DIGEST.hash}/{DIGEST.size_bytes}"

    assert await code_of(Services().write_status(name)) == Code.NOT_FOUND


async def test_an_upload_goes_on_at_the_committed_size_only() -> None:
    services = Services()
    name = upload_name(DIGEST)
    await services.write(name, DATA[:700_000], finish=False)

    for wrong in (699_999, 700_001):
        assert (
            await code_of(services.write(name, DATA[wrong:], offset=wrong)) == Code.INVALID_ARGUMENT
        )
    assert await services.write(name, DATA[700_000:], offset=700_000) == len(DATA)
    assert await services.store.get(DIGEST) == DATA


async def test_an_unknown_upload_starts_at_zero_only() -> None:
    code = await code_of(Services().write(upload_name(DIGEST), DATA[5:], offset=5))

    assert code == Code.INVALID_ARGUMENT


async def test_trailing_metadata_is_the_same_upload() -> None:
    services = Services()
    await services.write(upload_name(DIGEST) + "/foo/bar", DATA[:10], finish=False)

    assert await services.write_status(upload_name(DIGEST)) == (10, False)
    assert await services.write(upload_name(DIGEST) + "/x", DATA[10:], offset=10) == len(DATA)


async def test_a_half_closed_stream_commits_nothing() -> None:
    services = Services()

    assert await services.write(upload_name(DIGEST), DATA, finish=False) == len(DATA)
    assert await services.missing(DIGEST) == [wire(DIGEST)]


@pytest.mark.parametrize("function", [SHA256, BLAKE3])
async def test_the_empty_blob_commits_nothing_and_succeeds(function: DigestFunction) -> None:
    assert await Services().write(upload_name(function.empty), b"") == 0


async def test_a_write_without_messages_is_an_invalid_argument() -> None:
    assert await code_of(Services().send(rpcs.WRITE, [])) == Code.INVALID_ARGUMENT


@CODECS
async def test_a_compressed_upload_is_stored_plain_and_counts_compressed_bytes(
    codec: Codec,
) -> None:
    services = Services()
    packed = codec.compress(DATA)

    committed = await services.write(upload_name(DIGEST, codec=codec), packed, piece=777)

    assert committed == len(packed)
    assert await services.store.get(DIGEST) == DATA


@pytest.mark.parametrize("piece", [777, 1 << 20])
async def test_zstd_is_given_out_as_it_came(piece: int) -> None:
    services = Services()
    packed = zstd.compress(TEXT[:100_000]) + zstd.compress(TEXT[100_000:])
    digest = SHA256.digest(TEXT)

    await services.write(upload_name(digest, codec="zstd"), packed, piece=piece)

    assert await services.read(blob_name(digest, "zstd")) == packed
    assert await services.read(blob_name(digest)) == TEXT
    rest = await services.read(blob_name(digest, "zstd"), 70_000)
    assert Codec.ZSTD.decompress(rest, len(TEXT) - 70_000) == TEXT[70_000:]


async def test_a_store_that_keeps_no_zstd_takes_and_gives_it_all_the_same() -> None:
    services = Services(store=PlainStore())
    digest = SHA256.digest(TEXT)

    committed = await services.write(
        upload_name(digest, codec="zstd"), packed := zstd.compress(TEXT)
    )

    assert committed == len(packed)
    read = await services.read(blob_name(digest, "zstd"))
    assert Codec.ZSTD.decompress(read, len(TEXT)) == TEXT


async def test_a_hundred_frames_split_at_odd_bytes_are_one_upload() -> None:
    services = Services()
    step = len(DATA) // 100
    packed = b"".join(zstd.compress(DATA[at : at + step]) for at in range(0, len(DATA), step))

    committed = await services.write(upload_name(DIGEST, codec="zstd"), packed, piece=101)

    assert committed == len(packed)
    assert await services.missing(DIGEST) == []


async def test_a_compressed_upload_goes_on_at_its_compressed_offset() -> None:
    services = Services()
    name = upload_name(DIGEST, codec="zstd")
    packed = zstd.compress(DATA)
    await services.write(name, packed[:100], finish=False)

    assert await services.write_status(name) == (100, False)
    assert await services.write(name, packed[100:], offset=100) == len(packed)


@pytest.mark.parametrize(
    ("codec", "sent"),
    [
        ("zstd", zstd.compress(DATA)[:-1]),
        ("zstd", zstd.compress(DATA) + b"garbage"),
        ("zstd", zstd.compress(DATA + b"x")),
        ("zstd", Codec.DEFLATE.compress(DATA)),
        ("deflate", zlib.compress(DATA)),
        ("deflate", Codec.DEFLATE.compress(DATA) + b"x"),
        ("brotli", Codec.BROTLI.compress(DATA)[:-1]),
        ("brotli", b""),
    ],
)
async def test_a_bad_compressed_upload_stores_nothing(codec: str, sent: bytes) -> None:
    services = Services()

    code = await code_of(services.write(upload_name(DIGEST, codec=codec), sent))

    assert code == Code.INVALID_ARGUMENT
    assert await services.missing(DIGEST) == [wire(DIGEST)]
    assert services.store.stats().reserved_bytes == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(CommittedSize.UNCOMPRESSED, len(DATA)), (CommittedSize.UNKNOWN, -1)],
)
async def test_the_committed_size_of_compressed_uploads_is_an_option(
    answer: CommittedSize, expected: int
) -> None:
    services = Services(options=ByteStreamOptions(compressed_committed_size=answer))

    committed = await services.write(upload_name(DIGEST, codec="zstd"), zstd.compress(DATA))

    assert committed == expected


async def test_a_blob_over_the_instances_limit_is_refused_before_its_data() -> None:
    services = Services([Instance(max_blob_size_bytes=10)])
    script = Script()
    script.send(write_messages(upload_name(DIGEST), DATA, piece=10)[0])

    assert await code_of(services.send(rpcs.WRITE, script.stream())) == Code.INVALID_ARGUMENT


async def test_a_full_store_is_resource_exhausted_and_leaves_nothing() -> None:
    services = Services(store=MemoryStore(MemoryOptions(max_bytes=len(DATA) - 1)))

    code = await code_of(services.write(upload_name(DIGEST), DATA))

    assert code in (Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT)
    assert services.store.stats().reserved_bytes == 0


async def test_a_vanished_clients_upload_is_freed_after_a_while() -> None:
    services = Services()
    script = Script()
    script.send(write_messages(upload_name(DIGEST), DATA, piece=len(DATA) // 2)[0])
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(services.send(rpcs.WRITE, script.stream()))
        await script.taken.wait()
        writing.cancel()
    assert services.store.stats().reserved_bytes == len(DATA)

    services.time.now += 1000
    await services.bytestream.expire()

    assert services.store.stats().reserved_bytes == 0
    assert await services.write_status(upload_name(DIGEST)) == (0, False)


async def test_parked_uploads_are_bounded_in_number_and_bytes() -> None:
    for limits in (UploadLimits(max_count=2), UploadLimits(max_bytes=2000)):
        services = Services(options=ByteStreamOptions(uploads=limits))
        for number in range(3):
            services.time.now += 1
            await services.write(upload_name(DIGEST, f"u{number}"), DATA[:1000], finish=False)

        sizes = [
            (await services.write_status(upload_name(DIGEST, f"u{number}")))[0]
            for number in range(3)
        ]
        assert sizes == [0, 1000, 1000]


async def test_a_silent_writer_loses_its_stream_and_may_go_on() -> None:
    services = Services(options=ByteStreamOptions(message_idle_s=0.01))
    script = Script()
    script.send(write_messages(upload_name(DIGEST), DATA, piece=1000)[0])

    assert await code_of(services.send(rpcs.WRITE, script.stream())) == Code.UNAVAILABLE
    assert await services.write_status(upload_name(DIGEST)) == (1000, False)


async def test_empty_messages_are_taken_as_signs_of_life() -> None:
    services = Services()
    first, second = write_messages(upload_name(DIGEST), DATA, piece=len(DATA) // 2)
    alive = bytestream.WriteRequest(write_offset=second.write_offset)

    answer = await services.send(rpcs.WRITE, [first, alive, alive, second])

    assert answer.committed_size == len(DATA)


async def test_a_blob_that_another_client_completes_is_answered_midway() -> None:
    services = Services()
    script = Script()
    messages = write_messages(upload_name(DIGEST), DATA, piece=300_000)
    script.send(messages[0])
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(services.send(rpcs.WRITE, script.stream()))
        await script.taken.wait()
        await services.put(DATA)
        script.send(messages[1])

    assert writing.result().committed_size == len(DATA)


async def test_the_name_in_the_header_must_be_the_messages() -> None:
    services = Services()
    header = "build.bazel.remote.execution.v2.resource-name"
    messages = write_messages(upload_name(DIGEST), DATA)

    wrong = services.send(rpcs.WRITE, messages, {header: upload_name(DIGEST, "u2")})
    assert await code_of(wrong) == Code.INVALID_ARGUMENT
    right = services.send(rpcs.WRITE, messages, {header: upload_name(DIGEST)})
    assert await code_of(right) == Code.OK


async def test_malformed_messages_are_invalid_arguments() -> None:
    from armitage.reapi.gate import status_of
    from armitage.transport.port import Call

    async def one(message: bytes) -> AsyncIterator[bytes]:
        yield message

    good = write_messages(upload_name(DIGEST), DATA)[0].SerializeToString()
    for message in (
        b"\xff",
        good[:-1],
        b"\x52\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\x01\xff",
    ):
        with pytest.raises(Exception) as raised:  # noqa: PT011 (its status is what counts)
            await Services().bytestream.write(one(message), Call(""))
        assert status_of(raised.value).code == Code.INVALID_ARGUMENT


def blob_name(digest: Digest, codec: str = "") -> str:
    kind = f"compressed-blobs/{codec}" if codec else "blobs"
    return f"{kind}/{digest.hash}/{digest.size_bytes}"


@pytest.mark.parametrize(
    ("offset", "expected"), [(0, DATA), (700_000, DATA[700_000:]), (len(DATA), b"")]
)
async def test_a_read_starts_at_its_offset(offset: int, expected: bytes) -> None:
    services = Services()
    await services.put(DATA)

    assert await services.read(blob_name(DIGEST), offset) == expected


@pytest.mark.parametrize("offset", [-1, len(DATA) + 1])
async def test_a_read_outside_the_blob_is_out_of_range(offset: int) -> None:
    services = Services()
    await services.put(DATA)

    assert await code_of(services.read(blob_name(DIGEST), offset)) == Code.OUT_OF_RANGE


async def test_a_read_limit_bounds_the_bytes() -> None:
    services = Services()
    await services.put(DATA)

    assert await services.read(blob_name(DIGEST), 5, 7) == DATA[5:12]
    assert await services.read(blob_name(DIGEST), 5, 1 << 40) == DATA[5:]
    assert await code_of(services.read(blob_name(DIGEST), 0, -1)) == Code.INVALID_ARGUMENT
    assert await code_of(services.read(blob_name(DIGEST, "zstd"), 0, 1)) == Code.INVALID_ARGUMENT


@CODECS
@pytest.mark.parametrize("offset", [0, 1, 1_200_000, len(DATA)])
async def test_a_compressed_read_decodes_to_the_rest_of_the_blob(codec: Codec, offset: int) -> None:
    services = Services()
    await services.put(DATA)

    packed = await services.read(blob_name(DIGEST, codec), offset)

    assert codec.decompress(packed, len(DATA) - offset) == DATA[offset:]


async def test_an_absent_blob_is_not_found() -> None:
    assert await code_of(Services().read(blob_name(DIGEST))) == Code.NOT_FOUND
    assert await code_of(Services().read(blob_name(BLAKE3.digest(b"x"), "zstd"))) == Code.NOT_FOUND


async def test_another_size_is_another_blob() -> None:
    services = Services()
    await services.put(DATA)

    assert await code_of(services.read(f"blobs/{DIGEST.hash}/5")) == Code.NOT_FOUND


@pytest.mark.parametrize(
    "name",
    ["", "nonsense", "blobs", f"blobs/{DIGEST.hash}", f"blobs/{DIGEST.hash}/x", "blobs/ABC/3"],
)
async def test_a_malformed_name_is_an_invalid_argument(name: str) -> None:
    assert await code_of(Services().read(name)) == Code.INVALID_ARGUMENT
    assert await code_of(Services().write(name, b"")) == Code.INVALID_ARGUMENT


async def test_an_unknown_instance_is_not_found_by_name_too() -> None:
    assert await code_of(Services().read("who/" + blob_name(DIGEST))) == Code.NOT_FOUND
    assert await code_of(Services().write("who/" + upload_name(DIGEST), DATA)) == Code.NOT_FOUND


@pytest.mark.parametrize("prefix", ["", "blake3/"])
async def test_blake3_blobs_round_trip_marked_and_unmarked(prefix: str) -> None:
    services = Services([Instance("a/b/c")])
    digest = BLAKE3.digest(DATA)
    name = f"blobs/{prefix}{digest.hash}/{digest.size_bytes}"

    assert await services.write(f"a/b/c/uploads/u/{name}", DATA) == len(DATA)
    assert await services.read(f"a/b/c/{name}") == DATA


async def test_messages_of_a_read_are_about_a_mebibyte_at_most() -> None:
    services = Services()
    await services.put(DATA)
    request = bytestream.ReadRequest(resource_name=blob_name(DIGEST))

    sizes = [len(answer.data) async for answer in services.stream(rpcs.READ, request)]

    assert max(sizes) <= 1 << 20


async def test_a_failed_write_says_what_is_wrong() -> None:
    with pytest.raises(Failed, match="write_offset 5 is wrong"):
        await Services().write(upload_name(DIGEST), DATA, offset=5)
