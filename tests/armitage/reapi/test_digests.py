"""Wire digests."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest
from armitage.reapi.digests import (
    WIRE_FUNCTIONS,
    DigestPolicy,
    Unmarked64,
    stored_candidate,
    wire_digest,
)
from cas.digest import DigestFunction
from cas.memory import MemoryStore

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
functions = st.sampled_from(DigestFunction)


@given(functions, st.binary(max_size=50))
def test_a_marked_digest_means_itself(function: DigestFunction, data: bytes) -> None:
    digest = function.digest(data)
    notation = DigestPolicy().notation(WIRE_FUNCTIONS[function])

    assert notation.parse(wire_digest(digest)) == (digest,)
    assert notation.parse_encoded(wire_digest(digest).SerializeToString()) == (digest,)


@given(functions, st.binary(max_size=50))
def test_an_unmarked_digest_means_its_function_among_others(
    function: DigestFunction, data: bytes
) -> None:
    digest = function.digest(data)

    candidates = DigestPolicy().notation(0).parse(wire_digest(digest))

    assert digest in candidates
    assert {(c.hash, c.size_bytes) for c in candidates} == {(digest.hash, digest.size_bytes)}
    assert len(candidates) == (2 if function.hex_length == 64 else 1)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Unmarked64.AUTO, (SHA256, BLAKE3)),
        (Unmarked64.SHA256, (SHA256,)),
        (Unmarked64.BLAKE3, (BLAKE3,)),
    ],
)
def test_the_policy_says_what_64_characters_mean(
    policy: Unmarked64, expected: tuple[DigestFunction, ...]
) -> None:
    notation = DigestPolicy(unmarked_64=policy).notation(0)

    assert tuple(digest.function for digest in notation.candidates("a" * 64, 1)) == expected


@given(st.text(max_size=140), st.integers(-(1 << 63), (1 << 63) - 1))
def test_any_parts_are_a_digest_or_an_invalid_request(text: str, size: int) -> None:
    for digest_function in (0, reapi.DigestFunction.SHA256):
        try:
            candidates = DigestPolicy().notation(digest_function).candidates(text, size)
        except InvalidRequest:
            continue
        assert candidates[0].hash == text


@pytest.mark.parametrize("number", [reapi.DigestFunction.MD5, 99, -1])
def test_a_function_that_is_not_offered_is_named(number: int) -> None:
    with pytest.raises(InvalidRequest, match="not offered here"):
        DigestPolicy().notation(number)


def test_a_function_may_be_left_out_only_if_it_is_offered() -> None:
    with pytest.raises(InvalidRequest, match="takes 40"):
        DigestPolicy((DigestFunction.SHA1,)).notation(0).candidates("a" * 64, 1)


def test_a_missing_subject_is_in_the_form_of_the_request() -> None:
    digest = BLAKE3.digest(b"data")
    sha = SHA256.digest(b"data")
    policy = DigestPolicy()

    assert policy.notation(0).subject(digest) == f"blobs/{digest.hash}/4"
    marked = policy.notation(reapi.DigestFunction.BLAKE3)
    assert marked.subject(digest) == f"blobs/blake3/{digest.hash}/4"
    assert policy.notation(reapi.DigestFunction.SHA256).subject(sha) == f"blobs/{sha.hash}/4"


async def test_the_stored_candidate_is_the_one_meant() -> None:
    store = MemoryStore()
    digest = await store.put([BLAKE3.digest(b"data")], b"data")
    candidates = DigestPolicy().notation(0).parse(wire_digest(digest))

    assert await stored_candidate(store, candidates) == digest
    assert await stored_candidate(store, candidates[:1]) is None


def test_remembering_digests_is_bounded() -> None:
    notation = DigestPolicy().notation(reapi.DigestFunction.SHA1)
    for number in range(40_000):
        encoded = reapi.Digest(hash=f"{number:040x}", size_bytes=1).SerializeToString()
        assert notation.parse_encoded(encoded)[0].hash == f"{number:040x}"
    assert len(notation._encoded) <= 1 << 15


@given(st.data())
def test_reading_encoded_bytes_by_hand_agrees_with_the_parser(data: st.DataObject) -> None:
    digest = data.draw(functions).digest(data.draw(st.binary(max_size=3)))
    size = data.draw(st.sampled_from([0, 1, 127, 128, 1 << 40, (1 << 63) - 1, -1]))
    encoded = bytearray(reapi.Digest(hash=digest.hash, size_bytes=size).SerializeToString())
    for _ in range(data.draw(st.integers(0, 2))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(encoded[: data.draw(st.integers(0, len(encoded)))])
    added = bytes(encoded) + data.draw(st.sampled_from([b"", b"\x00", b"\x10\x01", b"\x18\x01"]))

    for wire in (cut, added):
        notation = DigestPolicy().notation(reapi.DigestFunction.UNKNOWN)
        try:
            expected = notation.parse(reapi.Digest.FromString(wire))
        except (DecodeError, InvalidRequest) as error:
            with pytest.raises(type(error)):
                notation.parse_encoded(wire)
        else:
            assert notation.parse_encoded(wire) == expected
