"""Small blobs read together are those that reading each by itself answers."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard
from support.clock import FakeClock
from support.packs import open_storage, place_of

from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound
from cas.keys import key_of
from cas.large_files import SMALL_BYTES
from cas.pack_store import PackOptions, PackStore
from cas.records import Encoding, Kind, Record, encode, plain_blob_at
from cas.store import BatchPut

Stored = dict[Digest, bytes]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[PackStore]:
    storage = await open_storage(tmp_path, FakeClock(), PackOptions())
    yield storage.store
    await storage.close()


def blobs(*sizes: int) -> Stored:
    chance = random.Random(1)
    made = (chance.randbytes(size) for size in sizes)
    return {DigestFunction.SHA256.digest(data): data for data in made}


async def put(store: PackStore, stored: Stored) -> None:
    await store.put_many([BatchPut([digest], data) for digest, data in stored.items()])


async def test_they_come_in_the_order_they_are_asked_for(store: PackStore) -> None:
    first, apart, second = blobs(7, 1, 5000, 30), blobs(SMALL_BYTES - 1), blobs(900, 2)
    for some in (first, apart, second):
        await put(store, some)
    missing = DigestFunction.SHA256.digest(b"was never put")
    asked = [*second, missing, *reversed(list(first)), *second]

    found = await store.read_together(asked)

    assert found == [(first | second).get(digest) for digest in asked]


async def test_what_takes_several_reads_is_whole(store: PackStore) -> None:
    stored = blobs(*range(SMALL_BYTES - 60, SMALL_BYTES))
    await put(store, stored)

    assert await store.read_together(list(stored)) == list(stored.values())
    assert await store.read_together([]) == []


async def test_blobs_of_any_function_and_encoding_come_as_they_are(store: PackStore) -> None:
    data = b"compresses well " * 200
    stored = {function.digest(data): data for function in DigestFunction}
    other = DigestFunction.SHA256.digest(data + b"!")
    await put(store, stored)
    await store.put_many([BatchPut([other], data + b"!", zstandard.compress(data + b"!"))])

    assert await store.read_together([*stored, other]) == [*stored.values(), data + b"!"]


async def test_one_that_is_damaged_is_missing_and_the_others_are_not(
    store: PackStore, tmp_path: Path
) -> None:
    stored = blobs(100, 200, 300)
    await put(store, stored)
    one, damaged, three = stored
    place = place_of(tmp_path, damaged)
    with place.path.open("r+b") as file:
        file.seek(place.offset + 100)
        file.write(bytes(1))

    assert await store.read_together([one, damaged, three]) == [stored[one], None, stored[three]]
    assert store.stats().damaged_blobs == 1
    with pytest.raises(BlobNotFound):
        await store.get(damaged)


def test_no_flipped_byte_of_a_record_is_passed_over() -> None:
    data = b"some bytes"
    key = key_of(DigestFunction.SHA256.digest(data))
    record = b"".join(encode(Record(Kind.BLOB, key, data, 7), b"saltsalt"))
    whole = b"other" + record
    used = whole.index(data) + len(data)

    assert plain_blob_at(whole, 5, key, len(data)) == data
    assert plain_blob_at(whole, 5, key, len(data) - 1) is None
    assert all(plain_blob_at(whole[:cut], 5, key, len(data)) is None for cut in range(used))
    for at in range(5, used):
        flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        assert plain_blob_at(flipped, 5, key, len(data)) is None


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [(Kind.RESULT, Encoding.IDENTITY), (Kind.BLOB, Encoding.ZSTD)],
)
def test_a_record_of_another_kind_is_no_plain_blob(kind: Kind, encoding: Encoding) -> None:
    data = b"some bytes"
    key = key_of(DigestFunction.SHA256.digest(data))
    record = b"".join(encode(Record(kind, key, data, 7, encoding), b"saltsalt"))

    assert plain_blob_at(record, 0, key, len(data)) is None
